"""The patterns by which a refusal is recognised, in Chinese and English. Raise VERSION when one of them changes.

They are matched against clauses in lower case and simplified characters (`as_simplified`). A gap never crosses a
clause.
"""

from __future__ import annotations

import re

VERSION = 1

_PAIRS = (
    "並并 來来 係系 個个 們们 備备 僅仅 儘尽 內内 則则 動动 協协 參参 問问 單单 嗎吗 嚴严 圖图 夠够 實实 寫写 將将 "
    "專专 尋寻 對对 師师 幫帮 後后 從从 復复 應应 換换 據据 數数 斷断 於于 時时 會会 東东 條条 業业 樣样 檢检 歡欢 "
    "歸归 沒没 沖冲 況况 準准 溫温 為为 無无 獲获 獻献 現现 當当 發发 盡尽 瞭了 確确 種种 筆笔 簡简 紹绍 結结 絕绝 "
    "給给 經经 綜综 網网 總总 繫系 聯联 與与 興兴 蓋盖 處处 號号 補补 裡里 見见 訊讯 討讨 記记 詢询 試试 話话 該该 "
    "認认 誤误 說说 請请 諒谅 論论 諮咨 講讲 謝谢 證证 讀读 變变 讓让 資资 載载 這这 過过 遺遗 還还 醫医 錄录 錯错 "
    "鑑鉴 長长 開开 間间 閱阅 關关 際际 雖虽 難难 題题 類类 顯显 餘余 麼么 點点"
)
_TABLE = str.maketrans({pair[0]: pair[1] for pair in _PAIRS.split()})


def as_simplified(text: str) -> str:
    """Return the text with the traditional characters that occur in the patterns replaced."""
    return text.translate(_TABLE)


_NOTES = "(?:笔记|资料|内容|信息|资讯|文档|文章|材料|文本|上下文|原文|来源|检索结果|参考)"
_ABOUT = "(?:是|为|讲|说|介绍|涉及|提到|提及|关于|讨论|描述|围绕|集中|分享|针对|包含|谈|有关|无关)"
_ANSWER = (
    "(?:回答|作答|解答|答复|回复|得出|给出|提供|得知|获知|知道|判断|确定|确认|推断|说明|告诉|告知|帮助|帮到|协助|满足)"
)
_ENGLISH_NOTES = (
    "(?:notes?|context|documents?|passages?|sources?|texts?|information|articles?|materials?|references?|results?)"
)
_CANNOT = r"(?:can ?not|can['’]?t|could ?n['’]t|could not|unable to|not able to|not possible to|impossible to)"

REFUSALS = (
    # It can't be answered: 无法回答, 没有办法给出答案, 不足以判断
    rf"(?:无法|不能|没法|没办法|没有办法|难以|不足以|无从|不便|未能|恕难).{{0,8}}?{_ANSWER}",
    "(?:拒绝|不予|不便)回答|无可奉告|答不(?:了|上来|出来)|回答不(?:了|上来|出来)|无答案|不可回答",
    # The notes lack it: 笔记没有提到, 资料里未包含, 内容中缺少
    rf"{_NOTES}.{{0,14}}?(?:没有|没|未|并无|无|不|缺乏|缺少).{{0,6}}?"
    "(?:提到|提及|提供|说明|说到|涉及|包含|包括|介绍|给出|写到|写明|写|讲到|讨论|记录|覆盖|含有|找到|答案)",
    rf"{_NOTES}.{{0,10}}?(?:没有|没|缺乏|缺少|不含).{{0,10}}?(?:相关|有关|关于|足够|对应|直接|所需|任何)",
    rf"{_NOTES}.{{0,8}}?(?:不足|不够|帮不上忙|没有帮助|没什么帮助|没有用)",
    rf"{_NOTES}.{{0,8}}?(?:与|和|跟).{{0,16}}?(?:无关|不相关|没有关系|没关系|不符)",
    # There is nothing about it: 没有找到相关信息, 未检索到答案, 缺乏足够的资料
    r"(?:没有|没|未能|未|找不到|查不到|缺乏|缺少|并无).{0,4}?(?:找到|检索到|查到|看到|发现)?.{0,4}?"
    rf"(?:相关|有关|关于|足够|对应|直接|任何|所需).{{0,16}}?(?:{_NOTES}|答案|说明|回答|内容|记载)",
    "(?:没有|没|未|未能)(?:一篇|任何|哪篇)?.{0,4}?(?:找到|检索到|查到|看到|提到|提及|说明|涉及|讲到|讲|谈到)",
    rf"(?:^|[^\w])(?:无|没有|暂无)(?:相关|有关)(?:{_NOTES}|说明|记载)|超出.{{0,8}}?{_NOTES}.{{0,4}}?范围",
    # The speaker doesn't know: 我不知道, 对此不清楚
    "^(?:抱歉|对不起)?(?:我|本人|对此|这个问题|这个|这|目前|暂时|还|也|并|真的|实在){0,4}不(?:太|大|是很)?(?:知道|清楚|了解|确定)",
    # English
    rf"\b{_CANNOT}\b.{{0,30}}?\b(?:answer|determine|tell|say|provide|find|help|assist|respond|infer|conclude|give|confirm)",
    rf"\b{_CANNOT} be (?:answered|determined|inferred|found|concluded|confirmed)\b",
    rf"\b{_ENGLISH_NOTES}\b.{{0,30}}?\b(?:do|does|did) ?(?:not|n['’]t)\b.{{0,20}}?\b"
    "(?:contain|mention|provide|include|say|state|specify|cover|answer|address|discuss|help|have|give|explain|describe)",
    rf"\bnone of (?:the|these|those|your)\b(?: \w+)? {_ENGLISH_NOTES}\b.{{0,20}}?\b"
    "(?:contains?|includes?|mentions?|provides?|says?|states?|covers?|answers?|address(?:es)?|discuss(?:es)?|helps?|are|is)",
    rf"\b(?:no|not enough|insufficient|lack of|lacks?)\b(?: \w+){{0,2}}? "
    rf"(?:{_ENGLISH_NOTES}|answer|evidence|mention)\b",
    rf"\b{_ENGLISH_NOTES}\b (?:is|are) (?:not sufficient|insufficient|not enough|not relevant|irrelevant|unrelated)",
    r"\bnone of them (?:mentions?|says?|addresses|covers?|answers?|helps?)\b",
    rf"\b(?:is|are|was) (?:not|nowhere) (?:\w+ )?(?:in|by|from) (?:the|these|any|your)\b.{{0,20}}?\b{_ENGLISH_NOTES}\b",
    r"\bi (?:do not|don['’]t) have (?:enough|sufficient|any|the)\b|\bi (?:do not|don['’]t|really don['’]t) know\b",
    r"\bi(?: a|['’])m not (?:sure|certain)\b|\bunanswerable\b",
    r"\bi (?:must|have to) (?:decline|refuse)\b|\bno answer\b",
)
"""Each says that the question is not answered."""

NEGATIONS = r"(?:不是|并非|并不是|绝非|并不|不会|不至于|怎么会|谁说|(?<!\w)not|isn['’]t|never)\s*[^，,]{0,3}$"
"""Turn a refusal directly after them into none: 并非无法回答."""

CONDITIONS = r"^(?:如果|如|若|若是|假如|倘若|要是|一旦|当|万一|除非|即使|if\b|when\b|unless\b|in case\b)"
"""Begin a clause that refuses nothing: 如果无法确定水温."""

OPENINGS = (
    r"^(?:根据|作为|基于|依据|按照|按|从|由于|因为|因|对于|关于|针对|就|至于|鉴于|在|综上|综合|总之|总的来说|因此|所以|"
    r"结论|答案|回答|答|以上|上述|这些|这几篇|您|你|很|非常|看完|通读|阅读|查阅|经过|虽然|尽管|目前|问题|"
    rf"(?:提供|所给|给出|现有|给定|已知)的?|{_NOTES}|based on|according to|from the|given|after|although|though|while|"
    r"regarding|as for|as an ai|unfortunately|in (?:the|these)|the|these|conclusion|answer)"
)
"""How a clause begins that leads to a refusal in the same sentence: 根据这些笔记，无法回答."""

ASIDES = (
    # Apologies
    r"抱歉|对不起|不好意思|遗憾|见谅|谅解|请.{0,4}理解|\bsorry\b|\bapologi[sz]e|\bunfortunately\b|\bregret",
    # What the notes are about instead
    rf"{_NOTES}.{{0,8}}?(?:主要|只|仅|都|均|全|大多|多|分别|集中)[^0-9]{{0,6}}?{_ABOUT}[^0-9]*$",
    rf"^(?:第.{{1,3}}[篇条])?{_NOTES}(?: ?[0-9]{{1,2}})?(?:讲的是|介绍的是|说的是|写的是|是关于|介绍了|分享了)[^0-9]*$|"
    "^第.{1,3}[篇条](?:讲的是|介绍的是|说的是|写的是|是关于|介绍了|分享了)[^0-9]*$",
    rf"^(?:虽然|尽管)[^0-9]{{0,8}}?{_NOTES}[^0-9]{{0,4}}?{_ABOUT}[^0-9]*$",
    rf"^(?:它们|其中|而是|并)?(?:都|均|只|仅|全|大多|主要)[^0-9]{{0,4}}?{_ABOUT}[^0-9]*$|^而是[^0-9]*$|^与.{{0,16}}无关",
    rf"\b{_ENGLISH_NOTES}\b[^0-9]{{0,30}}?\b"
    r"(?:only|mainly|mostly|all|about|focus(?:es)? on|unrelated|irrelevant|off topic)\b[^0-9]*$",
    r"^(?:they|it|which) [^0-9]{0,30}?\babout\b[^0-9]*$|^not (?:about|on|related)\b",
    # Where to look instead, and offers of more help
    r"(?:建议|请|推荐|可以|最好|不妨|需要|欢迎|可).{0,10}?(?:咨询|查阅|查询|查找|搜索|检索|参阅|重新提问|联系|寻求|请教)",
    rf"(?:建议|请|推荐|可以|最好|不妨|需要|欢迎|能|可).{{0,10}}?(?:查看|补充|提供|参考|核实).{{0,8}}?(?:更多|其他|官方|更详细|{_NOTES})",
    r"(?:我|我们).{0,4}?(?:可以|会|将|很乐意|愿意|再|才能|能).{0,8}?(?:帮|答|补充|继续)|希望.{0,8}(?:帮助|有用)|(?:随时|欢迎).{0,6}?(?:提问|问我|告诉我|联系)",
    r"\b(?:please|you (?:may|might|can|could|should)|i (?:suggest|recommend|would)|feel free)\b.{0,40}?"
    r"\b(?:consult|search|look (?:for|up|elsewhere)|provide|ask|refer|contact|share|clarify|check (?:other|the|an?))\b",
    r"\b(?:i can|i could|i['’]d|i would|i['’]ll|i will|happy to|glad to)\b.{0,30}?\b(?:help|answer|assist)\b",
    # The question again, headings and empty parts of a form: 步骤：无
    r"^(?:[\w ]{1,8}[:：])?(?:无|没有|暂无|略|不适用|none|n/a|-+)$",
    r"^(?:结论|答案|回答|总结|步骤|注意|注意事项|说明|问题|answer|conclusion|note|notes|summary|steps)$",
    r"^(?:问题|question)[:：]|^(?:谢谢|感谢|您好|你好|好的|hello|hi|thank)",
)
"""Each may stand beside a refusal without answering."""

CONTRASTS = r"但是|但(?!凡)|不过|然而|可是|\b(?:but|however|nevertheless|that said|yet)\b"
"""Begin a part of a sentence that is read on its own: 虽然没有提到，但…"""


def compiled(*patterns: str) -> re.Pattern[str]:
    """Return one pattern for any of these."""
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
