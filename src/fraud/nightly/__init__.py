"""The nightly run without Airflow: the jobs of the DAGs in the order of their assets, as one command."""
