"""Fields of a chat request that change nothing as long as they say nothing: what clients send on their own.

Of OpenAI's API, and of what vLLM, llama.cpp and other servers add to it. A field that is not here is not known.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ippo_trainer.http.errors import RequestError

NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "repetition_penalty": (1,),
        "repeat_penalty": (1,),
        "length_penalty": (1,),
        "logit_bias": ({},),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "prompt_logprobs": (),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
        "reasoning_effort": ("none",),
        "verbosity": ("medium",),
        "top_k": (-1, 0),
        "typical_p": (1,),
        "top_a": (0,),
        "tfs_z": (1,),
        "mirostat": (0,),
        "mirostat_mode": (0,),
        "min_tokens": (0,),
        "best_of": (1,),
        "num_beams": (1,),
        "use_beam_search": (False,),
        "do_sample": (True,),
        "early_stopping": (False,),
        "ignore_eos": (False,),
        "stop_token_ids": ([],),
        "include_stop_str_in_output": (False,),
        "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True,),
        "bad_words": ([],),
        "allowed_token_ids": (),
        "truncate_prompt_tokens": (),
        "echo": (False,),
        "suffix": ("",),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "add_special_tokens": (False,),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "documents": ([],),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "structured_outputs": ({},),
        "return_token_ids": (False,),
        "priority": (0,),
        "stream_options.include_obfuscation": (False,),
        "stream_options.continuous_usage_stats": (False,),
    }
)
"""By field: values that ask for nothing. None asks for nothing in any field."""


def without_neutral(body: dict[str, Any], place: str = "") -> dict[str, Any]:
    """A request without what asks for nothing.

    Args:
        body: of the request, or of a section of it.
        place: of the section, with a dot at its end.

    Raises:
        RequestError: 400, which names a field that is known and not supported.
    """
    rest = {name: value for name, value in body.items() if value is not None}
    for name, value in body.items():
        neutral = NEUTRAL.get(place + name)
        if neutral is None or value is None:
            continue
        if not _says_nothing(value, neutral):
            allowed = "".join(f", or send {_as_json(each)}" for each in neutral[:1])
            text = f"{place + name} is not supported by this server with this value: leave it out{allowed}"
            raise RequestError(400, text, (place + name).split(".")[0])
        del rest[name]
    return rest


def _says_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    if isinstance(value, dict) and {} in neutral:
        return not any(value.values())  # no bias is none
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral)


def _as_json(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value).replace("'", '"')
