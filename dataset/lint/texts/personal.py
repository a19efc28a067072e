"""Secrets and personal data in texts. What is found is never told as it is: neither in a report nor in a log."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .rules import TextRule
from .triggers import Trigger


@dataclass(frozen=True)
class PrivatePattern:
    """A kind of value. The first group of `regex`, or all of it without one, is what must not be shown."""

    name: str
    placeholder: str
    regex: re.Pattern[str]
    is_one: Callable[[str], bool] = lambda _: True


@dataclass(frozen=True)
class PrivateValue:
    pattern: PrivatePattern
    start: int
    end: int
    masked: str


def _luhn(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) < 2 or digits[0] not in (2, 3, 4, 5, 6):
        return False
    doubled = (sum(divmod(2 * d, 10)) for d in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> bool:
    squeezed = "".join(text.split()).upper()
    if not 15 <= len(squeezed) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in squeezed[4:] + squeezed[:4])) % 97 == 1


def _is_of_somebody(address: str) -> bool:
    """Not one of the domains that are kept free for documentation."""
    domain = address.rpartition("@")[2].lower()
    return not re.search(
        r"(?:^|\.)example\.(?:com|org|net)$|\.(?:example|test|invalid|localhost)$", domain
    )


def _ssn(text: str) -> bool:
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _dni(text: str) -> bool:
    number = text[:-1].upper().replace("X", "0").replace("Y", "1").replace("Z", "2")
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1].upper()


def _nir(text: str) -> bool:
    digits = "".join(text.split())
    return 97 - int(digits[:13]) % 97 == int(digits[13:])


def _phone(text: str) -> bool:
    digits = "".join(c for c in text if c.isdigit())
    return 10 <= len(digits) <= 15 and "55501" not in digits and len(set(digits)) > 2


def _mixed(text: str) -> bool:
    """Letters and digits, as in what a machine made up, and no placeholder."""
    kinds = (any(c.isdigit() for c in text), any(c.isalpha() for c in text))
    return all(kinds) and len(set(text)) > 6


SECRETS = tuple(
    PrivatePattern(name, "[SECRET]", re.compile(regex), is_one)
    for name, regex, is_one in (
        ("an AWS access key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", _mixed),
        ("a GitHub token", r"\bgh[pousr]_[A-Za-z0-9]{36,}\b", _mixed),
        ("a GitHub token", r"\bgithub_pat_[A-Za-z0-9_]{22,}\b", _mixed),
        ("a GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,}", _mixed),
        ("an API key", r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}", _mixed),
        ("a Stripe key", r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}\b", _mixed),
        ("a Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}", _mixed),
        ("a Google API key", r"\bAIza[A-Za-z0-9_-]{35}", _mixed),
        ("a Hugging Face token", r"\bhf_[A-Za-z0-9]{30,}\b", _mixed),
        ("an npm token", r"\bnpm_[A-Za-z0-9]{36}\b", _mixed),
        ("a SendGrid key", r"\bSG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{30,}", _mixed),
        ("a JSON web token", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}", _mixed),
        ("a private key", r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[\s\S]*?(?:-----END (?:[A-Z]+ )*PRIVATE KEY-----|\Z)", lambda _: True),
        ("a password in a URL", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:([^\s/:@]{3,128})@", lambda _: True),
        ("a password", r"(?i:\b(?:password|passwd|api[_-]?key|secret[_-]?key|access[_-]?token))['\"]?\s*[:=]\s*['\"]?([^\s'\",;]{8,128})", _mixed),
    )
)  # fmt: skip

PERSONAL = tuple(
    PrivatePattern(name, placeholder, re.compile(regex), is_one)
    for name, placeholder, regex, is_one in (
        ("an e-mail address", "[EMAIL]", r"\b[A-Za-z0-9_.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b", _is_of_somebody),
        ("an IBAN", "[IBAN]", r"\b[A-Z]{2}\d{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?\b", _iban),
        ("a card number", "[CARD]", r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d.-]|\.\d)", _luhn),
        ("a social security number", "[ID]", r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])", _ssn),
        ("a national id", "[ID]", r"\b[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?\d{2} ?\d{3} ?\d{3} ?\d{2}\b", _nir),
        ("a national id", "[ID]", r"\b(?:\d{8}|[XYZ]\d{7})[A-Z]\b", _dni),
        ("a phone number", "[PHONE]", r"(?<![\w+])(?:\+\d{1,3}[ ()./-]{0,2}\d(?:[ ()./-]{0,2}\d){6,12}|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[ .-]\d{3}[ .-]\d{4})(?![\d-])", _phone),
    )
)  # fmt: skip

_SECRET_WORDS = (
    "AKIA ASIA ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- sk- k_live_ k_test_ xox AIza hf_ npm_ SG. eyJ "
    "assw ASSW pi_key PI_KEY pi-key pikey PIKEY piKey ecret_key ECRET_KEY ecret-key ecretKey ccess_token "
    "CCESS_TOKEN ccess-token ccessToken"
)
_SECRET_TRIGGERS = Trigger(
    # A password in a URL stands before an @.
    (*(word.encode() for word in _SECRET_WORDS.split()), b"PRIVATE KEY", b"@")
)


def rules() -> list[TextRule]:
    digits = re.compile(rb"[0-9](?:[ ()./-]{0,2}[0-9]){7}")
    return [
        TextRule("W601", _SECRET_TRIGGERS, lambda text: _told(found_in(text, SECRETS))),
        TextRule("W602", Trigger((b"@",), digits), lambda text: _told(found_in(text, PERSONAL))),
    ]


def found_in(text: str, patterns: tuple[PrivatePattern, ...]) -> list[PrivateValue]:
    """Those that do not overlap, the earlier patterns first."""
    found: list[PrivateValue] = []
    for pattern in patterns:
        for each in _matches(text, pattern):
            if all(each.end <= other.start or other.end <= each.start for other in found):
                found.append(each)
    return found


def replaced(text: str, patterns: tuple[PrivatePattern, ...]) -> str:
    """The text with placeholders for what was found."""
    for each in sorted(found_in(text, patterns), key=lambda f: -f.start):
        text = text[: each.start] + each.pattern.placeholder + text[each.end :]
    return text


def _matches(text: str, pattern: PrivatePattern) -> Iterator[PrivateValue]:
    for match in pattern.regex.finditer(text):
        group = 1 if pattern.regex.groups else 0
        if pattern.is_one(match[group]):
            start, end = match.span(group)
            yield PrivateValue(pattern, start, end, _masked(match[group]))


def _masked(value: str) -> str:
    """Its first character, and how long it is; of an address also what kind of domain."""
    domain = value.rpartition(".")[2] if "@" in value else ""
    return f"{value[0]}…@….{domain}" if domain else f"{value[0]}…, {len(value)} characters"


def _told(found: list[PrivateValue]) -> str | None:
    if not found:
        return None
    first = found[0]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"it holds {first.pattern.name} ({first.masked}){more}"
