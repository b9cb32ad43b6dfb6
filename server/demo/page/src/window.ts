/** The part of a long list that is rendered. Pure; indices count from the oldest row. */

export interface Slice {
  readonly start: number;
  readonly end: number;
}

/** How many rows are rendered at most, and by how many the window moves at once. */
export const SPAN = 120;
export const STEP = 40;

/** `last` is the id of the last row to render; null: the newest. */
export function slice(rows: readonly { readonly id: string }[], last: string | null): Slice {
  const found = last === null ? -1 : rows.map((row) => row.id).lastIndexOf(last);
  const end = found < 0 ? rows.length : found + 1;
  return { start: Math.max(0, end - SPAN), end };
}

/** The id of the last row to render after the window moved by `step` rows (negative: to older ones). */
export function moved(rows: readonly { readonly id: string }[], { start, end }: Slice, step: number): string | null {
  const next = step < 0 ? end - Math.min(-step, start) : end + step;
  return next >= rows.length ? null : rows[next - 1]!.id;
}
