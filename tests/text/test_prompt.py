from typing import Any

import pytest
from tiny_cards import card
from tiny_tokenizers import byte_level, sentence_piece_metadata

from paceline.actors.messages import Chat, Embed, Generate, Sampling
from paceline.actors.text.load_tokenizer import from_gguf
from paceline.actors.text.prompt import PromptEncoder, num_chars
from paceline.engine.errors import InvalidRequestError

ENCODER = PromptEncoder(byte_level(), card())


def call(prompts: Any = None, **fields: Any) -> Generate:
    fields = {"sampling": Sampling()} | fields
    return Generate("c", prompts=prompts, **fields)


def ids_of(prompts: Any, **fields: Any) -> list[list[int]]:
    return [p.token_ids for p in ENCODER.encode_call(call(prompts, **fields), 200)]


def text_ids(text: str) -> list[int]:
    return byte_level().encode(text).ids


def test_texts_and_ids() -> None:
    assert ids_of(["the fox", [5, 6], "dog"]) == [text_ids("the fox"), [5, 6], text_ids("dog")]


def test_raw_prompts_may_spell_control_tokens() -> None:
    assert ids_of(["<|im_start|>user\nhi<|im_end|>"])[0][0] == 1


def test_conversations() -> None:
    chat = Chat(messages=[{"role": "user", "content": "hi"}])
    prompts = ENCODER.encode_call(call(chat=chat), 200)
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert [p.token_ids for p in prompts] == [text_ids(text)]


@pytest.mark.parametrize(("text", "add", "num_bos"), [("the", True, 1), ("<s>the", True, 1), ("the", False, 0)])
def test_bos_stands_in_front_once(text: str, add: bool, num_bos: int) -> None:
    encoder = PromptEncoder(from_gguf(sentence_piece_metadata()), card(bos_id=1, add_bos=True))
    assert encoder.encode_text(text, add).count(1) == num_bos


def test_bos_is_added_where_only_the_card_knows_of_it() -> None:
    encoder = PromptEncoder(byte_level(), card(bos_id=1, add_bos=True))
    assert encoder.encode_text("the", True) == [1, *text_ids("the")]
    assert encoder.encode_text("<|im_start|>the", True) == [1, *text_ids("the")]
    chat = Chat(messages=[{"role": "user", "content": "x"}])
    assert encoder.encode_chat(chat, True) == encoder.encode_chat(chat, False), "the template writes it"


@pytest.mark.parametrize(
    ("prompts", "param", "message"),
    [
        ([], "prompt", "empty"),
        ([""], "prompt", "empty"),
        (["x", []], "prompt.1", "empty"),
        ([[1, 512]], "prompt", r"prompt\[1\] is 512: token ids must be 0 to 511"),
        ([[-1]], "prompt", r"prompt\[0\] is -1"),
        (["x", [2**63 - 1]], "prompt.1", "9223372036854775807"),
    ],
)
def test_prompts_that_cannot_be(prompts: Any, param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        ids_of(prompts)
    assert caught.value.param == param


def test_a_hopeless_text_is_refused_before_it_is_encoded() -> None:
    with pytest.raises(InvalidRequestError, match=r"at least \d+ tokens: the context is 200") as caught:
        ids_of(["x" * 1_000_000])
    assert caught.value.code == "context_length_exceeded"
    assert len(ids_of(["x" * 1000], truncate_prompt_tokens=5)[0]) == 5


@pytest.mark.parametrize(
    ("limit", "side", "kept"),
    [(3, None, [7, 8, 9]), (3, "left", [7, 8, 9]), (3, "right", [5, 6, 7]), (9, "left", [5, 6, 7, 8, 9])],
)
def test_truncation(limit: int, side: Any, kept: list[int]) -> None:
    assert ids_of([[5, 6, 7, 8, 9]], truncate_prompt_tokens=limit, truncation_side=side) == [kept]


def test_truncation_to_the_context_leaves_room_for_the_output() -> None:
    ids = [5] * 300
    assert len(ids_of([ids], truncate_prompt_tokens=-1)[0]) == 199
    assert len(ids_of([ids], truncate_prompt_tokens=-1, sampling=Sampling(max_tokens=50))[0]) == 150
    with pytest.raises(InvalidRequestError, match="empty"):
        ids_of([ids], truncate_prompt_tokens=0)


def test_what_echo_shows() -> None:
    def echoed(**fields: Any) -> str | None:
        return ENCODER.encode_call(call(echo=True, **fields), 200)[0].text

    assert echoed(prompts=["the  fox"]) == "the  fox"
    assert echoed(prompts=[text_ids("<|im_end|>the fox")]) == "<|im_end|>the fox"
    assert echoed(prompts=["the fox"], truncate_prompt_tokens=1) == byte_level().decode(text_ids("the fox")[-1:])
    assert echoed(chat=Chat(messages=[{"role": "user", "content": "x"}])) == ""
    parts = [{"type": "text", "text": "Once"}]
    continued = Chat(
        messages=[{"role": "assistant", "content": parts}], add_generation_prompt=False, continue_final_message=True
    )
    assert echoed(chat=continued) == "Once"
    assert ENCODER.encode_call(call(["x"]), 200)[0].text is None


def test_a_model_without_a_template_says_so() -> None:
    encoder = PromptEncoder(byte_level(), card(chat_template=None))
    with pytest.raises(InvalidRequestError, match="tiny has no chat template"):
        encoder.encode_chat(Chat(messages=[{"role": "user", "content": "x"}]), False)


def test_num_chars() -> None:
    assert num_chars(["abc", [1, 2], {"k": "vw"}, None, 1.5]) == 8


def test_what_the_client_predicts_is_encoded_as_plain_text_and_cut_at_the_context() -> None:
    chat = Chat(messages=[{"role": "user", "content": "hi"}])
    [prompt] = ENCODER.encode_call(call(chat=chat, prediction="the fox"), 200)
    assert prompt.prediction_ids == text_ids("the fox")
    [prompt] = ENCODER.encode_call(call(chat=chat, prediction="the fox " * 5000), 60)
    assert prompt.prediction_ids == text_ids("the fox " * 60)[:60]


def test_a_prompt_for_a_vector_may_fill_the_context() -> None:
    ids = [5] * 300
    assert [len(i) for i in ids_of([ids], embed=Embed(), truncate_prompt_tokens=-1)] == [200]
    assert [len(i) for i in ids_of([ids], truncate_prompt_tokens=-1)] == [199]
