// The shapes of what the label page and its server say to each other; Python makes them in qilin_rag/viewer/label_page.py.

export type Choice = "A" | "B" | "tie" | "both_bad";

export interface Task {
  sha256: string;
  sides: string[];
  criteria: Record<string, [low: number, high: number]>;
}

export interface Item {
  question_id: string;
  query: string;
  references: string[] | null;
  /** The answers in the order of the sides. */
  answers: string[];
  notes: { title: string; text: string }[][] | null;
}

export interface Progress {
  done: number;
  total: number;
  all_done: number;
  all_total: number;
  n_annotators: number;
  last: string | null;
}

export interface Next {
  task: Task;
  annotator: string;
  item: Item | null;
  progress: Progress;
}

export interface Agreement {
  annotators: [string, string];
  criterion: string | null;
  n: number;
  share: number;
  kappa: number | null;
}

export interface SentLabel {
  id: string;
  task_sha256: string;
  question_id: string;
  annotator: string;
  choice: Choice | null;
  ratings: Record<string, Record<string, number>>;
  comment: string;
  seconds: number;
}

/** A rating that is asked for: of one side, by one criterion. */
export interface Row {
  side: string;
  criterion: string;
  value: number | null;
}
