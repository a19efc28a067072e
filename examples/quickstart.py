"""Fine-tune and chat in a few lines. First, in another terminal: `make serve`. Then:

.venv/bin/python examples/quickstart.py
"""

from __future__ import annotations

import time
from pathlib import Path

from openai import OpenAI

client = OpenAI(
    base_url="http://127.0.0.1:8000/v1", api_key=Path(".luthier/api_key").read_text().strip()
)

file = client.files.create(file=Path("examples/support_mails/train.jsonl"), purpose="fine-tune")
job = client.fine_tuning.jobs.create(model="smollm2-135m-instruct", training_file=file.id)
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(2)
    job = client.fine_tuning.jobs.retrieve(job.id)
    newest = client.fine_tuning.jobs.list_events(job.id, limit=1).data
    print(job.status, newest[0].message if newest else "")
if job.fine_tuned_model is None:
    raise SystemExit(f"{job.status}: {job.error.message if job.error else ''}")

reply = client.chat.completions.create(
    model=job.fine_tuned_model,
    messages=[
        {"role": "system", "content": "Extract the ticket as JSON."},
        {"role": "user", "content": "My kettle came without its base. I want my money back."},
    ],
    temperature=0,
)
print(reply.choices[0].message.content)
