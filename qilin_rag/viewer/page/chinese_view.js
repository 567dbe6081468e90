// The Chinese of the pages of the view.
// @ts-check
import { addChinese } from "./words.js";

addChinese({
  "Runs": "运行",
  "Compare": "对比",
  "Ablation": "消融",
  "Rankings": "排序模型",
  "Task": "任务",
  "Loading…": "载入中…",
  "Choose two runs.": "请选择两个运行。",
  "Questions in which {letter} is higher by {metric}": "{letter} 的 {metric} 更高的问题",
  "The view has ended; start it again: qilin-rag view": "查看服务已结束；请重新启动：qilin-rag view",
  "95% interval": "95% 置信区间",
  "won/tied/lost": "胜/平/负",
  "value": "值",
  "difference": "差值",
  "best": "最佳",
  "Download": "下载",
  "The runs have changed.": "运行已有变化。",
  "Load again": "重新加载",
});
