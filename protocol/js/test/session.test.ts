/** The session: which frames are allowed in each state. */

import { describe, expect, it } from 'vitest';

import { ProtocolError } from '../src/codec.js';
import type { Mutation } from '../src/mutation.js';
import type { Push } from '../src/outbox.js';
import { ALLOWED, Session, StateError, together, type Event, type State } from '../src/session.js';
import { C, CHAT_KINDS as kinds, id } from './support/rows.js';

const CURSOR = 'AAEC/w==';
const LIMITS = {
  frame_bytes: 1000,
  page_rows: 100,
  pages_in_flight: 1,
  mutations: 2,
};
const welcome = (mode: string): object => ({
  t: 'welcome',
  session: 's',
  epoch: 'e',
  tier: 'pro',
  mode,
  why: null,
  time: 1,
  expires: 2,
  keepalive: 25000,
  limits: LIMITS,
});
const FRAMES: Record<string, object> = {
  welcome: welcome('resumed'),
  schema: { t: 'schema', hash: 'h', kinds: [] },
  snapshot: { t: 'snapshot', as_of: 1, rows: [], cursor: CURSOR },
  changes: { t: 'changes', from: CURSOR, to: CURSOR, rows: [], seq: 1 },
  live: { t: 'live', cursor: CURSOR, seq: 1 },
  page: { t: 'page', id: 1, as_of: 1, rows: [], more: false },
  ack: { t: 'ack', results: [] },
  refreshed: { t: 'refreshed', expires: 3 },
  error: { t: 'error', code: 'x', message: '', retryable: true },
  pong: { t: 'pong' },
};

function inState(state: State): Session {
  const session = new Session({ kinds, token: 't', clientId: id(1), cursor: CURSOR, generation: 7, encoding: 'json' });
  const receive = (frame: object): unknown => session.receive(JSON.stringify(frame));
  if (state === 'new') return session;
  session.hello();
  if (state === 'greeting') return session;
  if (state === 'snapshot_due' || state === 'snapshot') {
    receive(welcome('snapshot'));
    if (state === 'snapshot') receive({ t: 'snapshot', as_of: 1, rows: [] });
    return session;
  }
  receive(welcome('resumed'));
  if (state === 'live') receive(FRAMES['live'] as object);
  if (state === 'broken') expect(() => session.receive('nonsense')).toThrow(ProtocolError);
  return session;
}

const of = (n: number, ...mutations: (Mutation | null)[]): Push => ({ n, mutations, held: n });

const DELETION: Mutation = { op: '-', kind: 'conversation', id: C(1) };
const LIST = { kind: 'conversation', parent: null, before: null };

const STATES: readonly State[] = ['new', 'greeting', 'snapshot_due', 'snapshot', 'catching_up', 'live', 'broken'];

describe.each(STATES)('in state %s', (state) => {
  it.each(Object.keys(FRAMES))('%s is accepted or breaks the protocol', (t) => {
    const session = inState(state);
    expect(session.state).toBe(state);
    const receive = (): unknown => session.receive(JSON.stringify(FRAMES[t]));
    if (state === 'broken') return expect(receive()).toBeNull();
    const permitted = (ALLOWED[state] as readonly string[]).includes(t);
    // An ack or a page that was not asked for is not allowed either.
    if (permitted && t !== 'ack' && t !== 'page') return expect(receive()).not.toBeNull();
    expect(receive).toThrow(ProtocolError);
    expect(session.state).toBe('broken');
  });

  it('the session sends only the frames that this state allows', () => {
    const session = inState(state);
    const welcomed = state !== 'new' && state !== 'greeting' && state !== 'broken';
    const inStep = state === 'catching_up' || state === 'live';
    expect([session.mayPush, session.mayAsk]).toEqual([welcomed, inStep]);
    if (state !== 'new') expect(() => session.hello()).toThrow(StateError);
    if (state === 'new' || state === 'broken') expect(() => session.ping()).toThrow(StateError);
    else expect(session.ping()).toBe('{"t":"ping"}');
    if (!welcomed) expect(() => session.push(of(1))).toThrow(StateError);
    if (!inStep) expect(() => session.askPage(LIST, 1)).toThrow(StateError);
  });
});

describe('a session', () => {
  const receive = (session: Session, frame: object): unknown => session.receive(JSON.stringify(frame));

  it('changes must start at the cursor, and move it', () => {
    const session = inState('catching_up');
    expect(receive(session, { t: 'changes', from: CURSOR, to: 'AQ==', rows: [], seq: 5, partial: true })).toMatchObject(
      {
        cursor: 'AQ==',
        seq: null,
      },
    );
    expect(receive(session, { t: 'changes', from: 'AQ==', to: 'Ag==', rows: [], seq: 5 })).toMatchObject({
      cursor: 'Ag==',
      seq: 5,
    });
    expect(() => receive(session, { t: 'live', cursor: 'AQ==', seq: 5 })).toThrow('cursor: not ours');
    expect(() => receive(inState('live'), { t: 'changes', from: 'AQ==', to: 'Ag==', rows: [] })).toThrow(
      'from: not our cursor',
    );
  });

  it('a session has no cursor within a snapshot', () => {
    const session = inState('snapshot');
    expect(session.cursor).toBeNull();
    expect(receive(session, { t: 'snapshot', as_of: 1, rows: [], cursor: 'AQ==' })).toMatchObject({
      first: false,
      cursor: 'AQ==',
    });
    expect(session.state).toBe('catching_up');
  });

  it('as many pages are asked for as are permitted, and each is answered once', () => {
    const session = inState('live');
    const [page, frame] = session.askPage({ kind: 'message', parent: C(1), before: [5, C(2)] }, 10);
    expect(JSON.parse(frame as string)).toEqual({
      t: 'page',
      id: page,
      kind: 'message',
      parent: C(1),
      before: [5, C(2)],
      limit: 10,
    });
    expect(session.mayAsk).toBe(false);
    receive(session, { t: 'error', code: 'unavailable', message: '', retryable: true, answers: 'page', id: page });
    expect(session.mayAsk).toBe(false);
    receive(session, { t: 'page', id: page, as_of: 1, rows: [], more: true });
    expect(session.mayAsk).toBe(true);
    expect(() => receive(session, { t: 'page', id: page, as_of: 1, rows: [], more: true })).toThrow(ProtocolError);
  });

  it('one push is unanswered at a time, and its ack has one result for each mutation in its order', () => {
    const push = (): Session => {
      const session = inState('live');
      session.push(of(5, DELETION, null));
      return session;
    };
    expect(push().mayPush).toBe(false);
    expect(() => push().push(of(7))).toThrow(StateError);
    expect(
      receive(push(), {
        t: 'ack',
        results: [
          ['applied', 5, 9],
          ['rejected', 6, 'malformed', ''],
        ],
      }),
    ).toMatchObject({ t: 'ack' });
    for (const results of [
      [],
      [['applied', 5, 9]],
      [
        ['applied', 6, 9],
        ['applied', 5, 9],
      ],
    ]) {
      expect(() => receive(push(), { t: 'ack', results })).toThrow('results: not one for each mutation');
    }
    expect(() => inState('live').push(of(1, null, null, null))).toThrow(RangeError);
    expect(() => inState('live').push(of(Number.MAX_SAFE_INTEGER, null, null))).toThrow(RangeError);
  });

  it('hello has client_id, cursor and generation, and a push says what is held', () => {
    const session = new Session({
      kinds,
      token: 't',
      clientId: id(1),
      cursor: CURSOR,
      generation: 7,
      encoding: 'json',
    });
    expect(JSON.parse(session.hello() as string)).toMatchObject({ client_id: id(1), cursor: CURSOR, generation: 7 });
    const push = inState('live').push({ n: 5, held: 3, mutations: [DELETION] });
    expect(JSON.parse(push as string)).toEqual({ t: 'push', n: 5, held: 3, mutations: [['-', 'c', C(1)]] });
  });

  it('a push that got an error may be sent again; the number that a gap expects is not its own', () => {
    const error = { t: 'error', code: 'gap', message: '', retryable: true, answers: 'push', id: 5 };
    const pushed = (): Session => {
      const session = inState('live');
      session.push(of(5, null));
      return session;
    };
    const session = pushed();
    receive(session, { ...error, expected: 3 });
    expect(session.mayPush).toBe(true);
    const above = pushed();
    expect(receive(above, { ...error, expected: 6 })).toMatchObject({ code: 'gap', expected: 6 });
    expect(above.mayPush).toBe(true);
    const other = pushed();
    receive(other, { ...error, id: 4, expected: 3 });
    expect(other.mayPush).toBe(false);
    for (const expected of [undefined, null, -1, 0, 5])
      expect(() => receive(pushed(), { ...error, expected })).toThrow(ProtocolError);
  });

  it('one refresh is unanswered at a time', () => {
    const session = inState('greeting');
    session.refresh('b');
    expect(() => session.refresh('c')).toThrow(StateError);
    receive(session, { t: 'error', code: 'token_refused', message: '', retryable: true, answers: 'refresh' });
    session.refresh('d');
  });

  it('a welcome resumes only from a cursor that hello gave', () => {
    const session = new Session({ kinds, token: 't', clientId: id(1), cursor: null, generation: 7, encoding: 'json' });
    session.hello();
    expect(() => receive(session, welcome('resumed'))).toThrow('mode');
    expect(() => receive(inState('greeting'), welcome('surprise'))).toThrow('mode');
    expect(() => receive(inState('greeting'), { ...welcome('resumed'), keepalive: 0 })).toThrow('keepalive');
  });

  it('a window out of bounds, or a frame that is too large, throws RangeError', () => {
    expect(
      () =>
        new Session({
          kinds,
          token: '',
          clientId: id(1),
          cursor: null,
          generation: 7,
          window: { conversation: 501 },
        }),
    ).toThrow(RangeError);
    expect(() => inState('live').refresh('x'.repeat(1000))).toThrow(RangeError);
  });
});

it('changes that follow each other are applied together, up to a limit, and nothing else is', () => {
  const changes = (rows: number, cursor: string, seq: number | null): Event => ({
    t: 'changes',
    rows: Array.from({ length: rows }, (_, n) => ({ kind: '-message', seq: n, id: id(n) })),
    cursor,
    seq,
  });
  const both = together(changes(2, 'a', 7), changes(3, 'b', 9));
  expect(both).toMatchObject({ cursor: 'b', seq: 9 });
  expect(both?.rows).toHaveLength(5);
  // The position stays where the last whole transaction left it.
  expect(together(changes(2, 'a', 7), changes(3, 'b', null))).toMatchObject({ cursor: 'b', seq: 7 });
  expect(together(changes(2, 'a', null), changes(3, 'b', null))).toMatchObject({ seq: null });
  expect(together(changes(1000, 'a', 7), changes(1001, 'b', 9))).toBeNull();
  expect(together(changes(1, 'a', 7), { t: 'live', cursor: 'a', seq: 7 })).toBeNull();
  expect(together({ t: 'live', cursor: 'a', seq: 7 }, changes(1, 'b', 9))).toBeNull();
});

it('a device without an id of its own says no hello', () => {
  const nobody = { clientId: '00000000-0000-0000-0000-000000000000', cursor: null, generation: 1 };
  expect(() => new Session({ kinds, token: 'x', ...nobody })).toThrow('the nil UUID names no device');
});
