"""What Vercel serves (vercel.json): the API, in a top-level `app`, which is what its Python runtime looks for."""

from ingest_api.serverless import application

app = application()
