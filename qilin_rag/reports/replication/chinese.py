"""The Chinese of the texts of the page, by the English that is in the code."""

from __future__ import annotations

CHINESE = {
    # states
    "done": "已完成",
    "to do": "待做",
    "missing": "缺少条件",
    "failed": "失败",
    # what is lacking, and how to get it
    "the data has {n} rows for it, and at least {fewest} are needed": "数据只有 {n} 行可用，至少需要 {fewest} 行",
    "take the whole data (--data hub:THUIR/Qilin), not a sample of it": (
        "请用完整数据（--data hub:THUIR/Qilin），而不是其中的样例"
    ),
    "the data has no table {names}": "数据中没有表 {names}",
    "add it to the folder of the data, or fetch the whole data: --data hub:THUIR/Qilin": (
        "把它放入数据文件夹，或取完整数据：--data hub:THUIR/Qilin"
    ),
    "packages are not installed: {names}": "未安装这些软件包：{names}",
    "pip install 'qilin-rag[{extra}]'": "运行 pip install 'qilin-rag[{extra}]'",
    "rankers are trained only with --train": "只有加上 --train 才训练排序模型",
    "add --train; without a GPU DCN-V2 is trained without text vectors": (
        "加上 --train；没有 GPU 时，DCN-V2 不用文本向量训练"
    ),
    (
        "on a machine with a GPU add --train; or put the folders that the command train wrote there into "
        "{folder}, each by the name of its file in configs/rankers, such as biencoder_search"
    ): (
        "在有 GPU 的机器上加 --train；或把那里 train 命令写出的文件夹放入 {folder}，各以其在 configs/rankers 中的"
        "文件名命名，例如 biencoder_search"
    ),
    "no GPU is seen here": "这台机器上没有可用的 GPU",
    "the model {model} is not on this machine": "这台机器上没有模型 {model}",
    "fetch it: hf download {model}": "下载：hf download {model}",
    "the table dqa has no column dpr_results": "表 dqa 没有列 dpr_results",
    "make one's own: qilin-rag sweep table11_own_index": "自建索引：qilin-rag sweep table11_own_index",
    "the LLM {llm} is not ready": "大模型 {llm} 尚不可用",
    # the page
    "The Qilin paper, replicated on {data}": "在 {data} 上复现 Qilin 论文",
    "What was done": "完成情况",
    "part": "部分",
    "state": "状态",
    "seconds": "秒",
    "{n} of {n_all} parts are done.": "{n_all} 个部分中已完成 {n} 个。",
    "This data is Qilin, by its number of notes and by known rows.": "从笔记数和已知的行判断，这份数据就是 Qilin。",
    "This data is not known to be Qilin ({why}), so the paper's values are for another data set.": (
        "无法确认这份数据是 Qilin（{why}），因此论文的数值属于另一份数据。"
    ),
    "It could not be told whether this data is Qilin ({why}).": "无法判断这份数据是不是 Qilin（{why}）。",
    "Figures over fewer than {n} requests, pairs, users or questions are not printed.": (
        "少于 {n} 个请求、请求对、用户或问题的数值不予列出。"
    ),
    "Each cell: this data; in brackets the value that the paper prints for Qilin, and the difference to it.": (
        "每格：本数据的值；括号内为论文给出的 Qilin 的值，以及与它的差。"
    ),
    "This data can't give ({why}): {rows}.": "本数据无法给出（{why}）：{rows}。",
    "nothing to count, or fewer than 100 of them": "没有可统计的，或不足 100 个",
    "nothing to count": "没有可统计的",
    "not in the data": "数据中没有",
    "no such pair": "没有这样的请求对",
    "no such search": "没有这样的搜索",
    "no request at this place, or no session_idx": "该位置没有请求，或没有 session_idx",
    "no request at this place": "该位置没有请求",
    "no result of a known type there": "该处没有类型已知的结果",
    "no search with a known source": "没有来源已知的搜索",
    "{part}: {what}. To do: {advice}.": "{part}：{what}。可以这样做：{advice}。",
    "{part} failed: {error}": "{part} 失败：{error}",
    "The paper shows Figure 3 as plots, without values.": "论文的图 3 只有图，没有数值。",
    "Plots need matplotlib: pip install 'qilin-rag[analysis]'.": (
        "绘图需要 matplotlib：pip install 'qilin-rag[analysis]'。"
    ),
    "Table 10: rankers of search": "表 10：搜索的排序模型",
    "Table 10: rankers of recommendation": "表 10：推荐的排序模型",
    "Table 11: answers of one LLM with four kinds of notes": "表 11：一个大模型配四种笔记的回答",
    "Users (section 4.1)": "用户（第 4.1 节）",
    "Figure 3": "图 3",
    (
        "extractive is not an LLM of the paper and no LLM at all: it copies sentences of the notes. Its figures "
        "show that the whole way works, and are a lower bound; name an LLM with --llm."
    ): (
        "extractive 不是论文中的大模型，也根本不是大模型：它只摘抄笔记中的句子。它的数值说明整个流程可用，并作为"
        "下限；请用 --llm 指定大模型。"
    ),
    "{llm} is one LLM; the paper's five are in configs/table11.yaml.": (
        "{llm} 是一个大模型；论文的五个在 configs/table11.yaml 中。"
    ),
    "BERTScore is left out: its model or its package is not on this machine; see qilin-rag doctor.": (
        "未计算 BERTScore：这台机器上没有它的模型或软件包；参见 qilin-rag doctor。"
    ),
    "BM25's notes are found by an index of this program: the data has no bm25_results for dqa.": (
        "BM25 的笔记由本程序的索引检索：数据中 dqa 没有 bm25_results。"
    ),
    "DCN-V2 was trained without text vectors, in batches of {batch_size} candidates: not the paper's settings.": (
        "DCN-V2 训练时没有文本向量，每批 {batch_size} 个候选：不是论文的设置。"
    ),
    "Only the first {first} test requests are ranked, as --first says; the paper's code takes the first 1,000.": (
        "按 --first 只排前 {first} 个测试请求；论文的代码取前 1,000 个。"
    ),
    "All test requests are ranked; the paper's code takes the first 1,000: --first 1000.": (
        "对全部测试请求排序；论文的代码取前 1,000 个：--first 1000。"
    ),
    "Only {n} {unit} have a figure, and at least {fewest} are needed; none is printed.": (
        "只有 {n} 个{unit}有数值，至少需要 {fewest} 个；不予列出。"
    ),
    "requests": "请求",
    "questions": "问题",
    # tables of the log
    "Size of the data (Table 2)": "数据规模（表 2）",
    "Users by gender (section 4.1)": "用户性别（第 4.1 节）",
    "Users by platform (section 4.1)": "用户平台（第 4.1 节）",
    "Users by age (section 4.1)": "用户年龄（第 4.1 节）",
    "Users by location (section 4.1)": "用户所在地（第 4.1 节）",
    "User behaviour (Table 5)": "用户行为（表 5）",
    "CTR by position (Figure 3a)": "各位置的点击率（图 3a）",
    "CTR by place of the request in its session of the app (Figure 3b)": "请求在应用会话中各次序的点击率（图 3b）",
    "CTR by place of the request in its session by the rule of pauses": "请求在按停顿划分的会话中各次序的点击率",
    "Types of notes by position, search (Figure 3c)": "各位置的笔记类型，搜索（图 3c）",
    "Types of notes by position, recommendation (Figure 3d)": "各位置的笔记类型，推荐（图 3d）",
    "CTR by type of note and position, search (Figure 3e)": "各类型笔记在各位置的点击率，搜索（图 3e）",
    "CTR by type of note and position, recommendation (Figure 3f)": "各类型笔记在各位置的点击率，推荐（图 3f）",
    "Consecutive requests in a session (Table 6)": "会话中的相邻请求（表 6）",
    "Length of queries in characters (Table 7)": "查询的字数（表 7）",
    "Reformulations of queries (Table 8)": "查询的改写（表 8）",
    "Sources of queries (Table 9)": "查询的来源（表 9）",
    "count": "数量",
    "share": "占比",
    "browsing depth": "浏览深度",
    "first click rank": "首次点击位置",
    "clicks": "点击数",
    "CTR": "点击率",
    "like": "点赞",
    "collect": "收藏",
    "comment": "评论",
    "pairs": "请求对",
    "searches": "搜索",
    "search": "搜索",
    "recommendation": "推荐",
    "image-text": "图文",
    "video": "视频",
    "users": "用户",
    "items": "笔记",
    "queries": "查询",
    "queries with DQA": "有 DQA 回答的查询",
    "actions": "行为",
    "images": "图片",
    "unknown": "未知",
    "female": "女",
    "male": "男",
    "under 16": "16 岁以下",
    "16-40": "16 至 40 岁",
    "over 40": "40 岁以上",
    "1 active search": "1 主动搜索",
    "2 auto-completion": "2 自动补全",
    "3 history": "3 历史记录",
    "4 suggestion on the page": "4 页面推荐",
    "5 suggestion in a note": "5 笔记内推荐",
    "6 filter": "6 筛选",
    "7 hot list": "7 热榜",
    "8 others": "8 其他",
    "Add": "增加",
    "Delete": "删减",
    "Change": "改变",
    "Repeat": "重复",
    "Others": "其他",
}
