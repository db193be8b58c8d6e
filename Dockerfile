# One image for every part: `serve` (the default), `worker`, `beat`, `migrate`. Not root, and nothing is written outside
# /tmp and /var/lib/airlock, so the root file system can be read-only.
FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/airlock
COPY deploy/build.lock deploy/runtime.lock deploy/
# Dependencies before the code: this layer lasts as long as the lock does.
RUN /opt/airlock/bin/pip install --only-binary=:all: --no-deps --require-hashes -r deploy/runtime.lock \
    && python -m pip install --only-binary=:all: --no-deps --require-hashes -r deploy/build.lock
COPY pyproject.toml README.md ./
COPY scanners scanners
COPY pipeline pipeline
COPY ingest_api ingest_api
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
    && /opt/airlock/bin/pip install --no-deps /tmp/wheel/*.whl \
    && /opt/airlock/bin/python -m pip uninstall --yes --quiet pip setuptools


FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends libmagic1 tesseract-ocr tesseract-ocr-eng \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin airlock \
    && install -d -o airlock -g airlock -m 0700 /var/lib/airlock /var/lib/airlock/keys /var/lib/airlock/spool
COPY --from=build /opt/airlock /opt/airlock

# OMP_THREAD_LIMIT: Tesseract's own threads make it three times slower.
ENV PATH=/opt/airlock/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_THREAD_LIMIT=1 \
    AIRLOCK_VAR_DIR=/var/lib/airlock \
    AIRLOCK_HOST=0.0.0.0 \
    PORT=8080
USER airlock
WORKDIR /var/lib/airlock
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=10s --start-period=20s --retries=3 CMD ["airlock", "alive", "api"]
ENTRYPOINT ["airlock"]
CMD ["serve"]
