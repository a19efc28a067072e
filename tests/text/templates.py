"""Chat templates of the kinds that are about, written for the special tokens of tiny-random."""

from __future__ import annotations

from modeling.llama_files import CHATML_TEMPLATE

_TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

# They only look back: one rendering finds all turns.
LOOK_BACK = {
    "chatml": CHATML_TEMPLATE,
    "own system text": (
        "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        f"{_TURN}{{% endfor %}}{_PROMPT}"
    ),
    "trims": CHATML_TEMPLATE.replace("message['content']", "message['content'] | trim"),
    "numbers turns": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ loop.index if m.role == 'user' }}"
        "{{ m.content }}<|im_end|>\n{% endfor %}" + _PROMPT
    ),
    "counts in a namespace": (
        "{% set ns = namespace(turns=0) %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'user' %}{% set ns.turns = ns.turns + 1 %}[{{ ns.turns }}]{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}" + _PROMPT
    ),
    "thinks first": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}<think>\n\n</think>\n{% endif %}{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    ),
    "loops over tools": (
        "{% for t in tools or [] %}{{ t | tojson }}{{ ',' if not loop.last }}{% endfor %}"
        f"{{% for m in messages %}}{_TURN}{{% endfor %}}{_PROMPT}"
    ),
}
# They ask what comes, and yet keep the prompts of earlier turns as they were.
LOOK_AHEAD = {
    "asks for the last": (
        "{% for m in messages %}" + _TURN + "{% if loop.last and add_generation_prompt %}"
        "<|im_start|>assistant\n{% endif %}{% endfor %}"
    ),
    "slices": (
        "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}"
        "<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n"
        f"{{% else %}}{{% set rest = messages %}}{{% endif %}}{{% for m in rest %}}{_TURN}{{% endfor %}}{_PROMPT}"
    ),
    "searches backwards": (
        "{% set ns = namespace(last=0) %}{% for m in messages[::-1] %}"
        "{% if m.role == 'user' and not ns.last %}{% set ns.last = messages | length - loop.index0 %}{% endif %}"
        f"{{% endfor %}}{{% for m in messages %}}{_TURN}{{% endfor %}}{_PROMPT}"
    ),
    "prompt depends on the turn": (
        "{% set ns = namespace(role='') %}{% for m in messages %}"
        + _TURN
        + "{% set ns.role = m.role %}"
        "{% endfor %}{% if add_generation_prompt and ns.role != 'tool' %}<|im_start|>assistant\n{% endif %}"
    ),
    "collects first": (
        f"{{% set text %}}{{% for m in messages %}}{_TURN}{{% endfor %}}{{% endset %}}{{{{ text }}}}{_PROMPT}"
    ),
    "leaves early": (
        "{% for m in messages %}{% if m.content == 'stop' %}{% break %}{% endif %}"
        f"{_TURN}{{% endfor %}}{_PROMPT}"
    ),
}
# What they show of a turn depends on what follows it.
REWRITE = {
    "counts all messages": (
        "{% for m in messages %}<|im_start|>{{ messages | length }}{{ m.role }}\n{{ m.content }}<|im_end|>"
        f"{{% endfor %}}{_PROMPT}"
    ),
    "strips earlier thoughts": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
        + _PROMPT
    ),
    "shows the last two": (f"{{% for m in messages[-2:] %}}{_TURN}{{% endfor %}}{_PROMPT}"),
}
