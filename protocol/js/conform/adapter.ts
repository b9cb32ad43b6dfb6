/**
 * The adapter by which `atlas-sync conform` drives the TypeScript client: JSON lines in and out (protocol/CLIENT.md). It
 * runs in Node.js on the store in SQLite. `node conform/build.mjs FILE` makes the program.
 */

import sqlite from 'node-sqlite3-wasm';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { WebSocket } from 'ws';

import type { Row } from '../src/rows.js';
import { CHAT } from '../src/schema.chat.js';
import { camel, compile, type Kind } from '../src/schema.js';
import { SqliteStore, type SqlRow } from '../src/store/sqlite.js';
import { createSync, type Sync } from '../src/sync.js';
import type { WebSocketClass } from '../src/websocket.js';

type Json = Readonly<Record<string, unknown>>;

const kinds = compile(CHAT);
const chosen = process.argv.includes('--json') ? 'json' : 'msgpack';

class App {
  private constructor(
    private readonly sync: Sync,
    private readonly store: SqliteStore,
    private readonly given: { token: unknown },
  ) {}

  static async start({ url, user, token, store: folder, window }: Json): Promise<App> {
    const given = { token };
    mkdirSync(folder as string, { recursive: true });
    const path = join(folder as string, 'device.sqlite');
    // The driver locks by a folder, which a killed process leaves behind. The runner starts one process at a time.
    rmSync(`${path}.lock`, { recursive: true, force: true });
    const db = new sqlite.Database(path);
    const store = new SqliteStore({
      run: async (sql, params) => void db.run(sql, params),
      all: async (sql, params) => db.all(sql, params) as unknown as SqlRow[],
      close: () => db.close(),
    });
    const sync = createSync({
      schema: CHAT,
      url: url as string,
      user: user as string,
      getToken: () => given.token as string,
      store,
      window: window as Record<string, number>,
      encoding: chosen,
      environment: { WebSocket: WebSocket as unknown as WebSocketClass },
    }) as unknown as Sync;
    await sync.ready;
    return new App(sync, store, given);
  }

  async answer(command: Json): Promise<Json> {
    const kind = kinds.get(command['kind'] as string) as Kind;
    switch (command['do']) {
      case 'token':
        this.given.token = command['token'];
        return {};
      case 'write':
        await this.write(kind, command);
        return {};
      case 'older':
        this.sync.loadOlder(kind.name, command['parent'] as never, 50).catch(() => undefined);
        return {};
      case 'rows':
        return { rows: await this.rows() };
      case 'shown':
        return { rows: await this.shown() };
      case 'stop':
        this.sync.stop(kind.name, command['id'] as never).catch(() => undefined);
        return {};
      case 'status': {
        const { state, pending } = await this.sync.status.read();
        return { state, pending, rejected: (await this.sync.quarantine.read()).map(({ code }) => code) };
      }
      default:
        return { error: `${String(command['do'])} is no command` };
    }
  }

  async close(): Promise<void> {
    await this.sync.close();
  }

  private async write(kind: Kind, { op, id, columns }: Json): Promise<void> {
    const given = Object.fromEntries(Object.entries(columns as Json).map(([name, value]) => [camel(name), value]));
    if (op === '+') await this.sync.insert(kind.name, given as never, id as never);
    else if (op === '~') await this.sync.update(kind.name, id as never, given as never);
    else await this.sync.remove(kind.name, id as never);
  }

  private async rows(): Promise<unknown[]> {
    return (await this.held()).map(([kind, row]) => [kind.name, row.id, columnsOf(kind, row)]);
  }

  private async shown(): Promise<unknown[]> {
    const rows = (await this.held()).map(async ([kind, { id }]) => {
      const row = (await this.sync.get(kind.name, id as never).read()) as Json | null;
      return row === null ? [] : [[kind.name, id, columnsOf(kind, row), row['stream'] ?? null]];
    });
    return (await Promise.all(rows)).flat();
  }

  private held(): Promise<(readonly [Kind, Row])[]> {
    return this.store.read(async (tx) => {
      const found: (readonly [Kind, Row])[] = [];
      for (const kind of kinds.values()) for (const row of await tx.all(kind)) found.push([kind, row]);
      return found;
    });
  }
}

const columnsOf = (kind: Kind, row: Json): Json =>
  Object.fromEntries([...kind.columns.values()].map(({ name, wire }) => [wire, row[name]]));

let app: App | null = null;
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line) as Json;
  let answer: Json;
  try {
    if (command['do'] === 'connect') {
      app = await App.start(command);
      answer = {};
    } else {
      answer = app === null ? { error: 'connect first' } : await app.answer(command);
    }
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await app?.close();
