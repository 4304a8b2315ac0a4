"""Airflow's extensions for `fraud` jobs: the operator, the tasks' defaults, the views. Imports no data library."""
