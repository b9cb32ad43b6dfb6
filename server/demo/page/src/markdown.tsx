/**
 * An assistant's answer, written in Markdown, as elements. No HTML is made or parsed: markdown-it finds the structure, and
 * only the elements below are made of it. HTML in an answer is shown as text, addresses of other schemes than `SCHEMES`
 * too, and images are links, so that showing an answer fetches nothing.
 */

import MarkdownIt from 'markdown-it';
import { h, type ComponentChildren, type VNode } from 'preact';
import { useMemo } from 'preact/hooks';

import { CopyButton } from './copy.js';
import { presentable } from './presentable.js';

const SCHEMES = new Set(['http:', 'https:', 'mailto:']);
/** Levels of quotes, lists and emphasis. What is deeper is shown as text. */
const DEEPEST = 20;
/**
 * Characters, and tokens. An answer with more is shown as it is written: so many characters, written to be slow, take a
 * fifth of a second to be read, and a table of 65,000 cells takes seconds at each layout.
 */
const LONGEST = 30_000;
const MOST = 8_000;

const reader = new MarkdownIt({ html: false, linkify: false, breaks: true, maxNesting: DEEPEST });
reader.normalizeLink = (url) => url;
reader.normalizeLinkText = (url) => url;
reader.validateLink = (url) => target(url) !== null;

type Token = ReturnType<typeof reader.parse>[number];
/** An element that is open, with what it contains so far. */
interface Open {
  readonly token: Token | null;
  readonly children: ComponentChildren[];
}

/** An absolute address that may be opened; null for any other text. */
function target(url: string): string | null {
  try {
    const { protocol, href } = new URL(url);
    return SCHEMES.has(protocol) ? href : null;
  } catch {
    return null;
  }
}

/** Elements without attributes. Headings begin below those of the page. */
const PLAIN: Readonly<Record<string, string>> = {
  p: 'p',
  ul: 'ul',
  li: 'li',
  blockquote: 'blockquote',
  strong: 'strong',
  em: 'em',
  s: 's',
  thead: 'thead',
  tbody: 'tbody',
  tr: 'tr',
  h1: 'h4',
  h2: 'h4',
  h3: 'h5',
  h4: 'h6',
  h5: 'h6',
  h6: 'h6',
};

function Link({ to, children }: { readonly to: string; readonly children: ComponentChildren }) {
  return (
    <a href={to} target="_blank" rel="noopener noreferrer nofollow" title={to}>
      {children}
    </a>
  );
}

function Code({ text, language }: { readonly text: string; readonly language: string }) {
  return (
    <div class="code">
      <div class="code-head">
        <span>{language === '' ? 'Code' : language}</span>
        <CopyButton text={text} what="this code" />
      </div>
      <pre tabIndex={0}>
        <code>{text}</code>
      </pre>
    </div>
  );
}

const attribute = (token: Token, name: string): string => String(token.attrGet(name) ?? '');

/** What an element with its children is on the page. */
function made(token: Token, children: ComponentChildren[]): ComponentChildren {
  // A paragraph of a list without blank lines.
  if (token.hidden) return children;
  const { tag } = token;
  if (tag === 'a') {
    const to = target(attribute(token, 'href'));
    return to === null ? children : <Link to={to}>{children}</Link>;
  }
  if (tag === 'ol') return <ol start={Number(attribute(token, 'start') || 1)}>{children}</ol>;
  if (tag === 'table') {
    return (
      <div class="table" tabIndex={0} role="region" aria-label="Table">
        <table>{children}</table>
      </div>
    );
  }
  if (tag === 'th' || tag === 'td') {
    const align = /text-align:(left|center|right)/.exec(attribute(token, 'style'))?.[1];
    return h(tag, align === undefined ? {} : { 'data-align': align }, children);
  }
  const plain = PLAIN[tag];
  return plain === undefined ? children : h(plain, null, children);
}

/** What a token that contains nothing is on the page. */
function single(token: Token): ComponentChildren {
  switch (token.type) {
    case 'text':
      return token.content;
    case 'softbreak':
    case 'hardbreak':
      return <br />;
    case 'hr':
      return <hr />;
    case 'code_inline':
      return <code>{token.content}</code>;
    case 'fence':
    case 'code_block':
      return <Code text={token.content.replace(/\n$/, '')} language={token.info.trim().split(/\s/)[0]!.slice(0, 30)} />;
    case 'image': {
      const to = target(attribute(token, 'src'));
      const words = token.content === '' ? 'Image' : token.content;
      return to === null ? words : <Link to={to}>{words}</Link>;
    }
    default:
      return token.content;
  }
}

/** markdown-it's tokens are a flat list of beginnings and ends; those of a line's content are in a list of their own. */
function elements(tokens: readonly Token[]): ComponentChildren[] {
  const open: Open[] = [{ token: null, children: [] }];
  for (const token of tokens) {
    const { children } = open.at(-1)!;
    if (token.type === 'inline') children.push(...elements(token.children ?? []));
    else if (token.nesting === 1) open.push({ token, children: [] });
    else if (token.nesting === 0) children.push(single(token));
    else if (open.length > 1) {
      const done = open.pop()!;
      open.at(-1)!.children.push(made(done.token!, done.children));
    }
  }
  return open[0]!.children;
}

/** The elements of an answer; the text itself if it is too large. */
export function rendered(text: string): ComponentChildren {
  if (text.length > LONGEST) return text;
  const tokens = reader.parse(text, {});
  return tokens.reduce((count, { children }) => count + 1 + (children?.length ?? 0), 0) > MOST ? text : elements(tokens);
}

interface Props {
  readonly text: string;
  /** Whether more follows. */
  readonly growing?: boolean;
  /** Whether it comes at the moment: shows a caret at its end. */
  readonly typing?: boolean;
}

export function Markdown({ text, growing = false, typing = false }: Props): VNode {
  const content = useMemo(() => rendered(growing ? presentable(text) : text), [text, growing]);
  return (
    <div class={typeof content === 'string' ? undefined : 'markdown'} data-typing={typing || undefined}>
      {content}
    </div>
  );
}

/** The first words of an answer without its marks, for a line in a list. */
export const withoutMarks = (text: string): string =>
  text
    .replace(/^```.*$/gm, '')
    .replace(/^[ \t]*(?:#{1,6}|>|[-*+]|\d+[.)])[ \t]+/gm, '')
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, '$1')
    .replace(/[*_~`|]{1,3}/g, '')
    .replace(/\s+/g, ' ')
    .trim();
