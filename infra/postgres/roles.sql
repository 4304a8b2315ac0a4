-- Create the platform's roles and databases over the local socket, at every `make up`. Repeated runs change nothing, except
-- that they set the passwords of .env.
\set ON_ERROR_STOP on
\getenv airflow_password AIRFLOW_DB_PASSWORD
\getenv mlflow_password MLFLOW_DB_PASSWORD
\getenv fraud_password FRAUD_DB_PASSWORD
\getenv superuser_password POSTGRES_PASSWORD

SELECT format('CREATE ROLE %I LOGIN', name)
FROM (VALUES ('airflow'), ('mlflow'), ('fraud')) AS required (name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

ALTER ROLE airflow PASSWORD :'airflow_password';
ALTER ROLE mlflow PASSWORD :'mlflow_password';
ALTER ROLE fraud PASSWORD :'fraud_password';
ALTER ROLE postgres PASSWORD :'superuser_password';

-- fraud: promotion history. feast: Feast's registry. mlflow_auth: MLflow's users, apart because they have own migrations.
SELECT format('CREATE DATABASE %I OWNER %I', name, owner)
FROM (VALUES ('airflow', 'airflow'), ('mlflow', 'mlflow'), ('mlflow_auth', 'mlflow'), ('fraud', 'fraud'), ('feast', 'fraud')) AS required (name, owner)
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec

-- Only the owner of a database may connect to it.
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', name)
FROM (VALUES ('airflow'), ('mlflow'), ('mlflow_auth'), ('fraud'), ('feast')) AS required (name) \gexec
