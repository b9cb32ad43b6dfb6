/**
 * What of a growing text in Markdown can be shown. Else a word would first be shown with its asterisks, a link with its
 * address, and a line as a heading, because the list below it has only its dash. Pure.
 */

const FENCE = /^ {0,3}(?:```|~~~)/gm;
/** A line that says nothing yet: the beginning of a list's item, of a heading, of a table's second line. */
const BEGUN = /(?:^|\n)[ \t>]*(?:[-=+*#|:`~ ]+|\d{1,3}[.)]?)[ \t]*$/;
/** A link without the end of its address. */
const LINK = /\[([^\]\n]*)\]\([^)\s]*$/;
const BULLET = /^[ \t>]*[*+-][ \t]/;
/** Those in code before the others, because nothing in it is a mark. */
const MARKS = ['`', '**', '*', '~~'] as const;

/** The text without a mark at its end that may become another one, and with the ends of those that its last line began. */
export function presentable(text: string): string {
  if ((text.match(FENCE)?.length ?? 0) % 2 === 1) return text;
  const whole = text.replace(BEGUN, '').replace(LINK, '$1');
  const start = whole.lastIndexOf('\n') + 1;
  const line = whole.slice(start).replace(/[*`~]+$/, (marks, _, all: string) => (closes(all, marks) ? marks : ''));
  let ends = '';
  let rest = line.replace(BULLET, '');
  for (const mark of MARKS) {
    const parts = rest.split(mark);
    const last = parts.at(-1)!;
    const begun = parts.length % 2 === 0 && /^\S/.test(last);
    if (begun) ends = mark + ends;
    if (mark === '`') rest = parts.filter((_, index) => index % 2 === 0).join('');
    else rest = parts.join('');
  }
  return whole.slice(0, start) + line.trimEnd() + ends;
}

/** Whether the marks at the end of a line end something that it began. */
const closes = (line: string, marks: string): boolean => line.split(marks).length % 2 === 1;
