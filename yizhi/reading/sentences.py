"""Sentences as rows of ids: everyday ones, written for this project, and a user's own.

int8's outlier channels are found on them. int8's quality is judged on the everyday ones.
"""

from collections.abc import Sequence

from yizhi.errors import InputError
from yizhi.reading.tokenizer_files import TextTokenizer

CHINESE: tuple[str, ...] = (
    "今天下午三点，我们在会议室讨论明年的计划。",
    "这家餐厅的牛肉面味道不错，就是等的时间有点长。",
    "据天气预报说，明天全国大部分地区有小雨。",
    "他从小在海边长大，很早就学会了游泳。",
    "请把门关上，外面的风太大了。",
    "公司决定在南方建立第二个研究中心。",
    "这本小说讲的是一个普通家庭三代人的故事。",
    "孩子们在公园里放风筝，笑声传得很远。",
    "医生建议他少吃盐，多运动，早点睡觉。",
    "新的地铁线路将在十月一日正式开通。",
    "我昨天买的手机充不进电，想换一台。",
    "老师让学生们写一篇关于春天的作文。",
    "银行的利率又下降了，很多人开始考虑买房。",
    "他在比赛的最后一分钟踢进了关键的一球。",
    "这种植物不需要太多阳光，适合放在办公室里。",
    "科学家发现，海水的温度比十年前高了许多。",
    "奶奶做的饺子皮薄馅大，全家人都爱吃。",
    "由于大雾，上午的航班全部取消了。",
    "如果您有任何问题，请随时给我们打电话。",
    "这座桥建于明朝，到现在已有五百多年的历史。",
    "她一边听音乐一边整理房间。",
    "政府将增加对农村教育的投入。",
    "电影的前半部分很有意思，结尾却让人失望。",
    "把鸡蛋打散，加入少量的水和面粉，搅拌均匀。",
    "图书馆周末也开放，但是只到下午五点。",
    "两国领导人就贸易问题进行了会谈。",
    "我把钥匙忘在家里了，只好等室友回来。",
    "这款软件可以自动把语音变成文字。",
    "爷爷每天早上都去河边打太极拳。",
    "去年出口的汽车数量超过了三百万辆。",
    "小狗看见主人回来，高兴得又跳又叫。",
    "合同必须由双方签字以后才能生效。",
    "他花了两年时间，终于学会了弹钢琴。",
    "这条路正在修，请从旁边的小路走。",
    "研究表明，经常读书的人记忆力更好。",
    "店员态度很差，我再也不会来这里买东西了。",
    "秋天的山上满是红叶，像一片火。",
    "警方提醒市民，不要相信陌生人的转账要求。",
    "她考上了北京的大学，父母都为她感到高兴。",
    "水在零度以下会结成冰。",
)

ENGLISH: tuple[str, ...] = (
    "We are meeting in the small room at three this afternoon to talk about next year.",
    "The noodles at this restaurant are good, but you wait a long time for them.",
    "The weather report says that it will rain in most of the country tomorrow.",
    "He grew up by the sea and learned to swim very early.",
    "Please close the door, the wind outside is too strong.",
    "The company has decided to build a second research centre in the south.",
    "This novel tells the story of three generations of an ordinary family.",
    "The children were flying kites in the park, and you could hear them laugh from far away.",
    "His doctor told him to eat less salt, move more and go to bed earlier.",
    "The new underground line will open on the first of October.",
    "The phone I bought yesterday does not charge, and I would like another one.",
    "The teacher asked her class to write a page about spring.",
    "Interest rates have fallen again, and many people think of buying a house.",
    "He scored the goal that decided the match in its last minute.",
    "This plant needs little light, so it does well in an office.",
    "Scientists found that the sea is much warmer than it was ten years ago.",
    "My grandmother makes the best dumplings, and the whole family loves them.",
    "Because of the fog, all flights of this morning were cancelled.",
    "If you have any questions, please call us at any time.",
    "The bridge was built five hundred years ago and still carries trains.",
    "She listens to music while she cleans her room.",
    "The government will spend more money on schools in the country.",
    "The first half of the film was interesting, but I did not like how it ended.",
    "Beat the eggs, add some water and flour, and stir well.",
    "The library is open at the weekend too, but only until five.",
    "The two presidents talked about trade between their countries.",
    "I left my keys at home and had to wait for my friend to come back.",
    "This program turns what you say into text.",
    "My grandfather goes for a walk along the river every morning.",
    "More than three million cars were sold abroad last year.",
    "When the dog saw him come home, it jumped up and down with joy.",
    "The contract must be signed by both parties before it takes effect.",
    "It took him two years, but in the end he learned to play the piano.",
    "This road is being repaired, please take the small one beside it.",
    "A study shows that people who read often remember more.",
    "The people in this shop were rude, and I will never buy anything there again.",
    "In autumn the hills are covered with red leaves and look like fire.",
    "The police warn against sending money to people you do not know.",
    "She got into a university in the capital, and her parents are proud of her.",
    "Water turns into ice when it is colder than zero degrees.",
)

# To calibrate on: none of those that are judged.
OTHER_CHINESE: tuple[str, ...] = (
    "火车晚点了四十分钟，乘客们都有些着急。",
    "这道题的答案写在书的最后一页。",
    "她每个月存一点钱，准备明年去旅行。",
    "市场上的蔬菜价格比上周便宜了不少。",
    "工程师们正在测试一种新型的电池。",
    "我弟弟喜欢画画，墙上贴满了他的作品。",
    "请在表格上填写您的姓名和电话号码。",
    "昨晚的音乐会吸引了上千名观众。",
    "这个地区以生产茶叶而闻名全国。",
    "因为路上堵车，他错过了会议的开头。",
    "法院判决这家工厂赔偿附近的居民。",
    "月亮从云后面露出来，照亮了整个院子。",
    "他说话很快，外国朋友常常听不懂。",
    "新买的鞋子有点紧，走久了脚会疼。",
    "医院增加了夜间门诊，方便上班的人看病。",
    "这项技术可以减少一半的用水量。",
    "姐姐在网上开了一家卖手工饰品的小店。",
    "球队输了比赛，但是教练没有批评任何人。",
    "把这两个数相加，再除以三。",
    "春节期间，大多数商店都会关门休息。",
)

OTHER_ENGLISH: tuple[str, ...] = (
    "The train was forty minutes late, and the passengers were getting worried.",
    "You will find the answer to this question on the last page of the book.",
    "Every month she saves a little money so that she can travel next year.",
    "Vegetables cost less at the market than they did last week.",
    "The engineers are testing a new kind of battery.",
    "My brother likes to paint, and the walls are full of his pictures.",
    "Please write your name and your telephone number on the form.",
    "More than a thousand people came to the concert last night.",
    "This part of the country is known for its tea.",
    "There was so much traffic that he missed the beginning of the meeting.",
    "The court decided that the factory must pay the people who live near it.",
    "The moon came out from behind the clouds and lit the whole garden.",
    "He speaks so fast that visitors often do not understand him.",
    "My new shoes are a little tight and hurt when I walk for long.",
    "The hospital is now open at night for people who work during the day.",
    "With this method only half as much water is needed.",
    "My sister opened a small shop that sells things she makes by hand.",
    "The team lost the match, but the coach did not blame anyone.",
    "Add the two numbers and divide the result by three.",
    "Most shops are closed during the holidays in spring.",
)

# The share of a language's sentences without an unknown token, for a vocabulary to be of that language.
FEWEST = 0.75


# Of a user's text, the share of tokens that a vocabulary may lack.
MOST_UNKNOWN = 0.5


def everyday_rows(text: TextTokenizer, longest: int, others: bool = False) -> list[list[int]]:
    """The ids of the sentences in the vocabulary's language, special tokens included; empty if it has neither language.

    longest: the most tokens of a row. others: give the sentences for calibration, not those that judge.
    """
    for sentences in (OTHER_CHINESE, OTHER_ENGLISH) if others else (CHINESE, ENGLISH):
        encoded = [list(one.ids) for one in text.tokenizer.encode_batch(list(sentences))]
        rows = [ids for ids in encoded if len(ids) <= longest and text.unknown_id not in ids]
        if len(rows) >= FEWEST * len(sentences):
            return rows
    return []


def _cut(ids: Sequence[int], longest: int, text: TextTokenizer) -> list[int]:
    """The beginning of a row, and its last special token."""
    end = text.frame.end
    return [*ids[: longest - end], *ids[len(ids) - end :]]


def rows_of(text: TextTokenizer, sentences: Sequence[str], longest: int, most: int) -> tuple[list[list[int]], int]:
    """The ids of a user's first usable sentences, up to a number of rows; and how many unusable ones lie between them.

    A sentence without words, or with mostly unknown words, is unusable. A sentence that is too long is cut. Raises
    InputError if no sentence is usable.
    """
    rows: list[list[int]] = []
    looked_at = empty = unknown = 0
    while len(rows) < most and looked_at < len(sentences):
        for one in text.tokenizer.encode_batch(list(sentences[looked_at : looked_at + most - len(rows)])):
            words = [index for index, special in zip(one.ids, one.special_tokens_mask, strict=True) if not special]
            looked_at += 1
            if not words:
                empty += 1
            elif words.count(text.unknown_id) > MOST_UNKNOWN * len(words):
                unknown += 1
            else:
                rows.append(list(one.ids) if len(one.ids) <= longest else _cut(one.ids, longest, text))
    if not rows:
        found = f"{looked_at} lines, {unknown} of them with mostly unknown words and {empty} with none"
        raise InputError("`calibration`", f"expected text in the vocabulary's language; found {found}")
    return rows, looked_at - len(rows)
