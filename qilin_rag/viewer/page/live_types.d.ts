// What the server says of runs while they happen.

export interface Cost {
  amount: number | null;
  at_most: boolean;
  currency: string | null;
  as_of: string | null;
  unknown: string | null;
}

export type RunState = "running" | "interrupted" | "complete" | "unreadable";

/** A row of the list of runs: `RunRow` in rows.py. */
export interface Row {
  id: string;
  key: string;
  kind: "run" | "ranking";
  state: RunState;
  why: string | null;
  data: string;
  retriever: string;
  llm: string;
  prompt: string;
  unit: "questions" | "requests";
  done: number;
  total: number;
  statuses: Record<string, number>;
  failed: number;
  rate: number | null;
  left_s: number | null;
  usage: Tokens | null;
  cached: number;
  retries: number;
  cost: Cost | null;
  started: string | null;
  updated: string | null;
  figures: Record<string, number | null>;
  is_read: boolean;
}

export interface Tokens {
  prompt_tokens: number | null;
  completion_tokens: number | null;
}

/** An event: all rows at first, then those that changed, and the ids of those that went. */
export interface Changes {
  is_first: boolean;
  rows: Row[];
  gone: string[];
}

export interface Figure {
  value: number | null;
  n: number;
  n_unscored: number;
  ci95: [number, number] | null;
  no_interval: string | null;
  signature: string;
}

export interface Times {
  retrieval_s: number;
  generation_s: number;
  scoring_s: number;
  sessions: number;
  untimed: number;
  cut_off: number;
}

/** The page of one run; the fields after `downloads` are missing if the run can't be read. */
export interface RunFacts {
  row: Row | null;
  files: { name: string; n_bytes: number }[];
  logs: string[];
  downloads: string[];
  settings?: string;
  prompt?: { facts: string; texts: Record<string, string> };
  identity?: Record<string, string | null>;
  times?: Times | null;
  remarks?: string[];
  figures?: Record<string, Figure>;
  why_no_figures?: string;
  figure_remarks?: string[];
  doubts?: string[];
  repeats?: string | null;
  latency?: { n: number; median_s: number; p95_s: number } | null;
  first_asked?: { n: number; prompt_tokens: number | null; completion_tokens: number | null; cost: Cost } | null;
  calls_s?: number | null;
}

export interface Brief {
  place: number;
  id: string;
  query: string;
  status: string;
  answer: string;
  is_whole: boolean;
  is_earlier: boolean;
}

export interface Briefs {
  n: number;
  from: number;
  rows: Brief[];
  /** Whether all samples were read; if not, there are more. */
  is_read: boolean;
}

export interface Text {
  text: string;
  n_left_out: number;
}

/** The notes in the prompt of a question that have images, and how many. */
export interface PromptImages {
  why: string;
  notes: { note: number; n: number }[];
}

/** A question of a run in full. */
export interface Asked {
  id: string;
  query: Text;
  status: string;
  marks: string[];
  error: Text;
  messages: (Text & { role: string })[];
  answer: Text;
  raw: Text | null;
  references: Text[];
  model: string | null;
  finish_reason: string | null;
  usage: Tokens;
  latency_s: number | null;
  cached: boolean;
  retries: number;
  notes_used: number | null;
  notes_given: number | null;
  n_images: number;
  images_left_out: Record<string, number>;
  parts: import("./types.js").JudgedParts;
}
