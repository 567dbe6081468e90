# The core of qilin_rag (no torch) on a CPU, for people who would rather not install Python:
#   docker build -t qilin-rag .
#   mkdir -p runs && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/runs" qilin-rag run --data sample
# Runs are kept in /runs. Mount your data, for example -v "$PWD/mine:/mine:ro", and name it: --data mine.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY qilin_rag qilin_rag
COPY prompts prompts
COPY configs configs
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=/src/constraints.txt
RUN python -m venv /opt/qilin-rag
RUN /opt/qilin-rag/bin/python -m pip install .

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/qilin-rag /opt/qilin-rag
# Any user may write here, so that `--user` can be that of the mounted folder.
RUN install -d -m 1777 /runs /cache && useradd --no-create-home --uid 1000 qilin
ENV PATH=/opt/qilin-rag/bin:$PATH QILIN_RAG_CACHE=/cache HF_HOME=/cache/huggingface HOME=/cache
USER qilin
WORKDIR /
VOLUME ["/runs", "/cache"]
ENTRYPOINT ["qilin-rag"]
CMD ["--help"]
