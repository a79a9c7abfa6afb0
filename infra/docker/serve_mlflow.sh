#!/bin/sh
# The tracking server: buckets and schema first, then MLflow in this shell's place.
#
# POSTGRES_PASSWORD_FILE            file with the password; libpq takes it from PGPASSWORD, so no URI and no list of
#                                   processes shows it
# MLFLOW_BACKEND_STORE_URI          postgresql+psycopg2://USER@HOST/DATABASE, without a password
# MLFLOW_ARTIFACTS_DESTINATION      s3://BUCKET/PREFIX
# MLFLOW_SERVER_ALLOWED_HOSTS       names that clients may call the server by
# BUCKETS                           buckets to make where they are missing, separated by spaces
# AWS_SHARED_CREDENTIALS_FILE, AWS_ENDPOINT_URL_S3, AWS_DEFAULT_REGION   read by boto3
set -eu
: "${MLFLOW_BACKEND_STORE_URI:?}" "${MLFLOW_ARTIFACTS_DESTINATION:?}" "${MLFLOW_SERVER_ALLOWED_HOSTS:?}"
PGPASSWORD="$(cat "${POSTGRES_PASSWORD_FILE:?}")"
export PGPASSWORD
# shellcheck disable=SC2086
python "$(dirname "$0")/make_buckets.py" ${BUCKETS:-}
mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI"
exec mlflow server --host 0.0.0.0 --port "${PORT:-5000}" --workers "${WORKERS:-2}" --serve-artifacts \
    --allowed-hosts "$MLFLOW_SERVER_ALLOWED_HOSTS"
