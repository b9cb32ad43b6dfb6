/** The three stores, new and empty, each with a way to open its data a second time. */

import 'fake-indexeddb/auto';

import sqlite from 'node-sqlite3-wasm';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Store } from '../../src/store.js';
import { IndexedDbStore } from '../../src/store/indexeddb.js';
import { MemoryStore } from '../../src/store/memory.js';
import { SqliteStore, type SqlDriver, type SqlRow } from '../../src/store/sqlite.js';

export interface Kind {
  readonly name: string;
  readonly make: () => {
    readonly store: Store;
    readonly reopen: () => Promise<Store>;
    readonly end: () => Promise<void>;
  };
}

let made = 0;

/** The adapter that an app writes for its driver. */
export function sqliteDriver(path: string): SqlDriver {
  const db = new sqlite.Database(path);
  return {
    run: async (sql, params) => void db.run(sql, params),
    all: async (sql, params) => db.all(sql, params) as unknown as SqlRow[],
    close: () => db.close(),
  };
}

export const KINDS: readonly Kind[] = [
  {
    name: 'memory',
    make() {
      const store = new MemoryStore();
      return { store, reopen: async () => store, end: () => store.close() };
    },
  },
  {
    name: 'indexeddb',
    make() {
      const name = `contract-${++made}`;
      let store = new IndexedDbStore({ name });
      return {
        store,
        reopen: async () => {
          await store.close();
          return (store = new IndexedDbStore({ name }));
        },
        end: () => store.close(),
      };
    },
  },
  {
    name: 'sqlite',
    make() {
      const folder = mkdtempSync(join(tmpdir(), 'atlas-sqlite-'));
      const path = join(folder, 'device.sqlite');
      let store = new SqliteStore(sqliteDriver(path));
      return {
        store,
        reopen: async () => {
          await store.close();
          return (store = new SqliteStore(sqliteDriver(path)));
        },
        end: async () => {
          await store.close();
          rmSync(folder, { recursive: true });
        },
      };
    },
  },
];
