"""Everyday Chinese with one character missing, and what belongs there.

Written for this project, for one purpose: to tell a masked-language-model head that was trained from
one that was not. Answers are content words, each used once, so that a head which always gives the
same few frequent characters (的, ，, 。) scores nothing.
"""

CLOZE: tuple[tuple[str, str], ...] = (
    ("北京是中[MASK]的首都。", "国"),
    ("这个酒店的服务很[MASK]。", "好差"),
    ("今天天[MASK]很好，我们出去走走吧。", "气"),
    ("他每天早上七[MASK]起床。", "点"),
    ("我喜欢吃苹[MASK]和香蕉。", "果"),
    ("老[MASK]正在给学生上课。", "师"),
    ("小明今年上小[MASK]三年级。", "学"),
    ("医[MASK]里有很多病人。", "院"),
    ("公司去年的收[MASK]增长了百分之十。", "入益"),
    ("这部电[MASK]很精彩，值得一看。", "影"),
    ("请问火[MASK]站怎么走？", "车"),
    ("他打开电[MASK]开始写报告。", "脑"),
    ("冬天来了，外面下起了大[MASK]。", "雪雨"),
    ("爸爸和妈[MASK]都在家里。", "妈"),
    ("我的手[MASK]没电了。", "机"),
    ("太阳从[MASK]方升起。", "东"),
    ("房间很干[MASK]，住得很舒服。", "净"),
    ("中国人民银[MASK]今天公布了新的数据。", "行"),
    ("警[MASK]抓住了小偷。", "察方"),
    ("一年有四个季[MASK]。", "节"),
    ("时[MASK]过得真快。", "间"),
    ("祝你生[MASK]快乐！", "日"),
    ("对不起，我来[MASK]了。", "晚迟"),
    ("这本书的作[MASK]是一位年轻人。", "者"),
    ("经济发[MASK]带来了就业机会。", "展"),
    ("他们昨天结[MASK]了，婚礼很热闹。", "婚"),
    ("水果店里的西[MASK]又大又甜。", "瓜"),
    ("因为下雨，比[MASK]推迟到明天。", "赛"),
    ("这件衣[MASK]穿起来很合身。", "服"),
    ("飞机已经从上海机[MASK]起飞。", "场"),
)
