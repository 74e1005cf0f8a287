# tuspy, as its own readme has it, with checksums: run by uploads.rs.
import os

from tusclient.client import TusClient

client = TusClient(os.environ["TUS_ENDPOINT"])
client.set_headers({"Authorization": "Bearer " + os.environ["TUS_KEY"]})
uploader = client.uploader(
    os.environ["TUS_FILE"],
    chunk_size=200_000,
    retries=5,
    retry_delay=1,
    metadata={"filename": "film.mp4", "msat_per_second": "2000"},
    upload_checksum=True,
)
uploader.upload()
print("done", uploader.url)
