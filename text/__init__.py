"""Text to token ids and back, without torch: the tokenizer, the chat template and what keeps the one from being fooled by
the other.

Imports `foundation` at most. Begin with `chat_template`, the face that training and serving share; `tokenizer` is below it.
"""
