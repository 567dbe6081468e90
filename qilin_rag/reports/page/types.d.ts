// The shapes of the data that the pages show; Python makes them in qilin_rag/reports/overview.py and contents.py.

/** A figure of the leaderboard; `marks` are those of the leaderboard command. */
export interface Figure {
  value: number | null;
  n: number;
  n_unscored?: number;
  ci95?: [number, number];
  no_interval?: string;
  best?: boolean;
  tied?: boolean;
  p?: number | null;
  untold?: string;
  in_row?: { best?: boolean; tied?: boolean; p?: number | null; untold?: string };
  over_none?: { difference: number; ci95?: [number, number]; p: number; p_holm: number };
  marks: string;
  is_best: boolean;
}

export interface Money {
  amount: number | null;
  currency?: string | null;
  at_most?: boolean;
  unknown?: string | null;
}

export interface Tokens {
  prompt_tokens: number | null;
  completion_tokens: number | null;
}

/** A run in the index, with its figure under each metric of its table. `run` is its name, by which it is asked for. */
export interface Run extends Tokens {
  run: string;
  llm: string;
  retriever: string;
  prompt: string;
  figures: (Figure | null)[];
  cost: Money;
  uncounted: number;
  first_asked: (Tokens & { n: number; cost: Money }) | null;
  latency: { median_s: number; p95_s: number; n: number } | null;
  /** The share of its notes that are wrong, and the noise curve it is on; only of the retriever mixed. */
  noise?: { share: number; line: string };
}

export interface Metric {
  name: string;
  signature: string;
  of_hits: boolean;
}

/** A set of questions, and the runs over it. A question is named by its place in `ids` and `queries`. */
export interface Table {
  data: string;
  metrics: Metric[];
  retrieval: { retriever: string; figures: (Figure | null)[] }[];
  judged: { by: string; rows: string[][] }[];
  legend: string[];
  runs: Run[];
  notes: string[];
  why_no_notes: string;
  why_no_images: string;
  ids: string[];
  queries: string[];
}

/** Everything that a page needs at once. */
export interface Index {
  version: string;
  made: string;
  statuses: string[];
  doubts: Record<string, string>;
  markup: { emphasis: string; markers: string[]; range: string; widestRange: number; alike: Record<string, string> };
  tables: Table[];
  /** The report alone has blocks. */
  questions_per_block?: number;
  /** The viewer alone names the state of the runs that the index is of. */
  board?: string;
}

/** A run's status (a digit: its place in the list of statuses) and scores by metric, for each question. */
export interface Columns {
  statuses: string;
  scores: (number | null)[][];
}

/** What a run says about one question, without what is usual. */
export interface Told {
  answer: string;
  raw?: string;
  error?: string | null;
  model?: string | null;
  finish_reason?: string | null;
  latency_s?: number | null;
  cached?: boolean;
  marks?: string[];
  notes_given: number | null;
  notes_used: number | null;
  notes_missing?: number;
  /** The images that were sent, and the number of those that were not, by reason. */
  n_images?: number;
  images_left_out?: Record<string, number>;
  prompt_cut?: boolean;
  usage?: Tokens;
  reasons?: (string | null)[];
  judgements?: Judgement[];
  parts?: JudgedParts;
}

export type Support = "support" | "partial_support" | "not_support";

/** An answer as judges took it apart; a verdict that is null was not given, or can't be read. */
export interface JudgedParts {
  nuggets?: { judge: string; bank: string; nuggets: AssignedNugget[] };
  claims?: { judge: string; answer_claims: CheckedClaim[] | null; reference_claims: CheckedClaim[] | null; n_notes: number | null };
  support?: { judge: string; sentences: JudgedSentence[] };
}

export interface AssignedNugget {
  text: string;
  importance: "vital" | "okay";
  assignment: Support;
}

/** `notes` are numbers of notes in the prompt that state the claim, from 1. */
export interface CheckedClaim {
  text: string;
  is_supported: boolean | null;
  notes: number[] | null;
}

/** `note_idx` is null if the prompt has no note of the number. */
export interface JudgedSentence {
  text: string;
  citations: { number: number; note_idx: number | null; support: Support | null }[];
}

export interface Judgement {
  judge: string;
  runs: string[];
  text: string;
}

/** A small copy of an image of a note, or why there is none. */
export interface NoteImage {
  src?: string;
  why?: string;
}

export interface Note {
  title: string;
  text: string;
  name: string | null;
  images?: NoteImage[];
}

export type Hits = [note: number, score: number | null][];

/** One question, for the chosen runs only. */
export interface OpenedQuestion {
  references: string[];
  reference_notes: number[];
  notes: Record<string, Note>;
  runs: { hits: Hits; messages: [role: string, text: string][]; told: Told }[];
  /** Whether the images of its notes are beyond the limits of the report. */
  images_left_out?: boolean;
}

/** Where data comes from that is too much for the index. Tables, runs and questions are named by their places. */
export interface Source {
  openColumns(t: number, run: number): Promise<Columns>;
  openAnswers(t: number, run: number): Promise<string[]>;
  openQuestion(t: number, place: number, runs: number[]): Promise<OpenedQuestion>;
}

export interface Sort {
  key: string;
  down: boolean;
}

/** What is looked at: the runs A and B, filters of the questions, and the places of those that the filters leave. */
export interface State {
  t: number;
  a: number;
  b: number | null;
  metric: number;
  boardSort: Sort | null;
  /** Words that the runs of the leaderboard and of the plots have. */
  boardFilter: string;
  search: string;
  inAnswers: boolean;
  status: string;
  low: number | null;
  high: number | null;
  compare: string;
  sort: Sort;
  page: number;
  order: number[];
  /** The place of the question that is open. */
  open: number | null;
  /** Whether the address has been read: until then it is not written. */
  isFollowed: boolean;
}

/** A column of a table that sorts; `of` gives what is sorted by. */
export interface BoardColumn {
  key: string;
  label: string;
  of(run: Run): string | number | null;
  isText?: boolean;
  number?: number;
  title?: string;
}

/** A part of a page: an element, a text, nothing, or several of them. */
export type Child = Node | string | number | null | undefined | false | Child[];
export type Attributes = Record<string, string | number | boolean | null | undefined | ((event: Event) => void)>;
