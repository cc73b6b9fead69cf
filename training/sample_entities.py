"""Sentences with tagged persons, places and organizations, for docs/ner-walkthrough.md.

They were written for this project: the lists below give names, and the patterns below give sentences. The training file
has no name and no sentence of the test file, so a score shows that something was learnt.

    python -m yizhi.training.sample_entities --out build/walkthrough/data
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from yizhi.reading.tokenizer_files import SPECIAL_TOKENS
from yizhi.storage.json_files import to_json

# A small BERT over the characters of these sentences.
_CONFIG = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
_SURNAMES = "王李张刘陈杨赵黄周吴徐孙马朱胡林郭何高罗郑梁谢宋唐许邓冯韩曹"
_GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰涛明超秀霞平刚桂英华建国文玉春红梅志远思雨子轩欣怡浩然晓东佳宁"
_PLACE_BEGINS = "东西南北上下新旧清青白黑金银石沙松柳桃杏云月龙凤安平和长宁永"
_PLACE_ENDS = ("山县", "江市", "河镇", "湖区", "岭村", "海市", "溪县", "坪乡", "港镇", "州市", "桥村", "泉县")
_NAMES = "恒远宏达鼎盛博雅启明卓越华诚天成瑞丰万通海联星辰蓝图绿洲金石同创"
_COMPANY_ENDS = ("科技公司", "银行", "大学", "医院", "出版社", "研究所", "集团", "中学", "电视台", "交通局")

_SENTENCES = (
    "昨天{PER}在{LOC}参加了{ORG}的会议。",
    "{PER}毕业以后去了{ORG}工作。",
    "从{LOC}到{LOC}坐火车要三个小时。",
    "{ORG}宣布将在{LOC}建一座新楼。",
    "记者{PER}从{LOC}发来报道。",
    "{PER}和{PER}是多年的老朋友。",
    "今年夏天{LOC}下了很大的雨，路都断了。",
    "{ORG}的{PER}老师给学生上了一堂课。",
    "听说{PER}搬到{LOC}去住了。",
    "为了看病，{PER}一早就到了{ORG}。",
    "{LOC}的桃花开了，游客很多。",
    "{ORG}与{ORG}签了一份合同。",
    "他问路人，{ORG}怎么走。",
    "我们明天去{LOC}看外婆。",
    "第一名是{PER}，第二名是{PER}。",
    "经过三年的努力，{ORG}终于在{LOC}开业了。",
    "这本书的作者是{PER}，由{ORG}出版。",
    "天气很好，我们在家里做饭、聊天、看书。",
    "会议下午两点开始，请大家准时到场。",
    "{PER}说他小时候住在{LOC}的河边。",
    "{LOC}离这里不远，开车半个小时就到。",
    "{ORG}今天招聘二十名新员工。",
    "请把这封信交给{ORG}的{PER}。",
    "去年冬天，{PER}一个人走遍了{LOC}。",
    "{PER}在{LOC}买了一套房子。",
    "{PER}回到{LOC}，又回到{ORG}上班。",
    "{LOC}的人都认识{PER}。",
    "{ORG}请来了{PER}。",
    "在{ORG}，{PER}等了很久。",
    "{PER}、{PER}都在{ORG}上学。",
    "{LOC}很冷，{LOC}很热。",
    "{PER}买了水果，给{PER}送去。",
    "每天早上{PER}都去{LOC}跑步。",
    "下个月{ORG}要离开{LOC}。",
)
# What a sentence may begin with.
_OPENINGS = ("", "", "", "昨天，", "听说", "后来", "其实", "据报道，", "大家都说，", "那一年，")
_TEST_OPENINGS = ("", "", "上周，", "原来", "有人说，")
_TEST_SENTENCES = (
    "上个月{PER}离开了{ORG}，回到{LOC}。",
    "{LOC}的水果很甜，{PER}买了两箱。",
    "{ORG}请{PER}去做一次演讲。",
    "他在{ORG}等了三个小时，没有见到{PER}。",
    "{PER}住在{LOC}，每天坐车去{ORG}上班。",
    "星期天我们没有出门，在家里看了一部电影。",
    "早上，{LOC}下雪了。",
    "{PER}、{PER}和{PER}都得了奖。",
)


def make_sentences(count: int, seed: int, test: bool = False) -> list[list[tuple[str, str]]]:
    """`count` sentences of (character, BIO tag). The same seed gives the same sentences.

    test: with more patterns, and with names that no other call uses.
    """
    draw = random.Random(seed)
    known = [pattern for pattern in _SENTENCES if "{" in pattern]  # with other names they are other sentences
    sentences = []
    for _ in range(count):
        opening = draw.choice(_TEST_OPENINGS if test else _OPENINGS)
        pattern = opening + draw.choice((*_TEST_SENTENCES, *known) if test else _SENTENCES)
        sentences.append([pair for part in _split(pattern) for pair in _fill(part, draw, test)])
    return sentences


def write_conll(path: Path, sentences: list[list[tuple[str, str]]]) -> None:
    """A character, a tab and its tag in a line; an empty line after each sentence."""
    lines = ["".join(f"{character}\t{tag}\n" for character, tag in sentence) for sentence in sentences]
    path.write_text("\n".join(lines), encoding="utf-8")


def _split(pattern: str) -> Iterator[str]:
    """`{PER}住在` as `{PER}` and `住在`."""
    for part in pattern.replace("{", "\0{").replace("}", "}\0").split("\0"):
        if part:
            yield part


def _fill(part: str, draw: random.Random, test: bool) -> list[tuple[str, str]]:
    if not part.startswith("{"):
        return [(character, "O") for character in part]
    kind = part[1:-1]
    name = _make_name(kind, draw)
    while _is_for_test(name) != test:
        name = _make_name(kind, draw)
    return [(character, f"{'B' if index == 0 else 'I'}-{kind}") for index, character in enumerate(name)]


def _make_name(kind: str, draw: random.Random) -> str:
    if kind == "PER":
        return draw.choice(_SURNAMES) + "".join(draw.sample(_GIVEN, draw.choice((1, 2, 2))))
    if kind == "LOC":
        return draw.choice(_PLACE_BEGINS) + draw.choice(_PLACE_ENDS)
    return "".join(draw.sample(_NAMES, 2)) + draw.choice(_COMPANY_ENDS)


def _characters() -> list[str]:
    """Every character that a sentence may hold."""
    patterns = "".join((*_SENTENCES, *_TEST_SENTENCES, *_OPENINGS, *_TEST_OPENINGS))
    for kind in ("{PER}", "{LOC}", "{ORG}"):
        patterns = patterns.replace(kind, "")
    names = (_SURNAMES, _GIVEN, _PLACE_BEGINS, *_PLACE_ENDS, _NAMES, *_COMPANY_ENDS)
    return sorted({*patterns, *"".join(names)})


def _is_for_test(name: str) -> bool:
    """A fifth of all names, by their characters."""
    return sum(map(ord, name)) % 5 == 0


def main() -> None:
    """Write `train.txt`, `dev.txt`, `test.txt`, the training sentences as `plain.txt`, and a small BERT's two files."""
    parser = argparse.ArgumentParser(description="Write tagged sentences for docs/ner-walkthrough.md.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train = make_sentences(2000, seed=1)
    write_conll(options.out / "train.txt", train)
    write_conll(options.out / "dev.txt", make_sentences(200, seed=2))
    write_conll(options.out / "test.txt", make_sentences(400, seed=3, test=True))
    text = "\n".join("".join(character for character, _ in sentence) for sentence in train) + "\n"
    (options.out / "plain.txt").write_text(text, encoding="utf-8")
    vocab = [*SPECIAL_TOKENS, *_characters()]
    (options.out / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    (options.out / "config.json").write_text(to_json({**_CONFIG, "vocab_size": len(vocab)}), encoding="utf-8")


if __name__ == "__main__":
    main()
