"""The engine: sequences of token ids in, generated tokens out, whoever asks.

A library: no HTTP, no storage, no words of OpenAI's, no thread and no event loop. `engine.Engine` is its face:

    engine = Engine(model, tokenizer, num_slots=1, kv_bytes=1 << 26, max_seq_len=2048)
    for delta in engine.generate(Generate(prompt=tokenizer.encode_prompt("Hello"), max_tokens=16)):
        ...

Who has many sequences prepares and submits each, and calls `step` until the engine `is_idle`; that is what
`serving.engine_thread` does for the server. Where a sequence cannot be computed, `failures` says why.

A `Pool` is a request for what a head makes of a text, where nothing is generated: its only delta has `pooled`.

`schedule` decides who computes what in a step, `places` who is in it at all; `sequence` is one choice on its way,
`kv` holds keys and values, `slots` the adapters; `sampling` and `text` make tokens and text of what the model says.
"""
