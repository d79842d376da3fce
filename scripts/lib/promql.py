"""Questions to a Prometheus, and as much of its language as the checks need."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

KEYWORDS = {
    "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset", "and", "or", "unless", "atan2", "inf", "nan",
    "start", "end",
}  # fmt: skip
# Labels in parentheses are no metrics.
LABEL_LISTS = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|\{(?:"(?:[^"\\]|\\.)*"|[^}"])*\}|\[[^\]]*\]|[a-zA-Z_:][a-zA-Z0-9_:]*|\S')


class PrometheusError(Exception):
    """It could not be reached, or refused."""


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an API answer."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            try:
                why = json.load(error).get("error", error.reason)
            except ValueError:
                why = error.reason
            raise PrometheusError(why) from None
        except (OSError, ValueError, KeyError) as error:
            raise PrometheusError(f"{self.url}: {error}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant vector."""
        data = self.get("query", query=expression)
        if data["resultType"] != "vector":
            raise PrometheusError(f"a {data['resultType']}, no vector: {expression}")
        return data["result"]

    def values(self, expression: str, label: str) -> dict[str, float]:
        """The values of an instant vector by one of its labels."""
        return {s["metric"].get(label, ""): float(s["value"][1]) for s in self.query(expression)}


def selectors(expression: str) -> list[str]:
    """The vector selectors of an expression, each as one of its own."""
    found: list[str] = []
    tokens = TOKEN.findall(LABEL_LISTS.sub(" ", re.sub(r"#.*", "", expression)))
    for at, token in enumerate(tokens):
        after = tokens[at + 1] if at + 1 < len(tokens) else ""
        if re.match(r"[a-zA-Z_:]", token):
            before = tokens[at - 1] if at else ""
            is_unit = re.fullmatch(r"[0-9.]", before) is not None
            if token.lower() in KEYWORDS or after == "(" or is_unit:
                continue
            found.append(token + (after if after.startswith("{") else ""))
        elif token.startswith("{") and not (at and re.match(r"[a-zA-Z_:]", tokens[at - 1])):
            found.append(token)
    return found
