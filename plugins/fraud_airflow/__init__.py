"""What Airflow needs to run `fraud` jobs: the operator, the tasks' defaults, the views. Knows no data library."""
