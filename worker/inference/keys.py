"""Keys of LLMs: read from the environment or a file, checked, and never shown. No text of an error holds a key."""

from __future__ import annotations

from worker.contract.errors import FixSetting
from worker.contract.settings import LlmSettings


def read_key(name: str, llm: LlmSettings) -> str | None:
    """The key of the LLM `name`, without blanks around it; None where none is set. Raises FixSetting.

    A key goes into a header. There, a line break or another control character would end up in the text of an error.
    """
    if llm.api_key is not None:
        return _checked(f"llms.{name}.api_key", llm.api_key.get_secret_value())
    if llm.api_key_file is None:
        return None
    setting = f"llms.{name}.api_key_file"
    try:
        text = llm.api_key_file.read_text("ascii")
    except OSError as error:
        raise FixSetting(f"{setting}: {llm.api_key_file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise FixSetting(
            f"{setting}: {llm.api_key_file} does not hold a key: a key has ASCII characters only"
        ) from None
    return _checked(setting, text)


def _checked(setting: str, text: str) -> str:
    key = text.strip()
    if not key:
        raise FixSetting(f"{setting}: the key is empty")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise FixSetting(f"{setting}: the key holds a blank, a line break or a character that is not ASCII")
    return key
