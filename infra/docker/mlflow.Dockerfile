# The image of the tracking server: MLflow with the drivers of Postgres and S3.
#   docker build -f infra/docker/mlflow.Dockerfile -t mcb-mlflow:0.1.0 .
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/venv && pip install -c constraints.txt mlflow psycopg2-binary boto3

FROM python:3.11.14-slim-bookworm
RUN useradd --uid 1000 --create-home mlflow
COPY --from=build /opt/venv /opt/venv
COPY infra/docker/serve_mlflow.sh infra/docker/make_buckets.py /opt/mlflow/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    MLFLOW_DISABLE_TELEMETRY=true
USER 1000:1000
WORKDIR /home/mlflow
EXPOSE 5000
CMD ["sh", "/opt/mlflow/serve_mlflow.sh"]
