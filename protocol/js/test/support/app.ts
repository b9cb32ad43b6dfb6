/**
 * Apps in a world of their own, with a model server. When a test ends, each Sync is closed, and no connection is left.
 */

import { afterEach, beforeEach, expect } from 'vitest';

import { createChatSync, type ChatOptions, type ChatSync } from '../../src/chat.js';
import { MemoryStore } from '../../src/store/memory.js';
import type { Sync } from '../../src/sync.js';
import { ModelServer } from './model.js';
import { id, tokenOf } from './rows.js';
import { World } from './world.js';

export const USER = id(1);

export class App {
  server = new ModelServer();
  world = new World(this.server);
  private syncs: Pick<Sync, 'close'>[] = [];

  constructor() {
    beforeEach(() => {
      this.server = new ModelServer();
      this.world = new World(this.server);
      this.syncs = [];
    });
    afterEach(async () => {
      for (const sync of this.syncs) await this.end(sync);
      expect(this.world.network.sockets.size).toBe(0);
    });
  }

  /** A Sync with a getToken, in a tab of its own unless `environment` is given. */
  open(options: Partial<ChatOptions> = {}): ChatSync {
    return this.alone({ getToken: () => tokenOf(options.user ?? USER), ...options });
  }

  /** The same without a getToken. */
  alone(options: Partial<ChatOptions> = {}): ChatSync {
    const sync = createChatSync({
      url: 'wss://test/sync',
      store: new MemoryStore(),
      user: USER,
      encoding: 'json',
      environment: this.world.tab().environment(),
      ...options,
    });
    this.syncs.push(sync);
    return sync;
  }

  async end(sync: Pick<Sync, 'close'>): Promise<void> {
    const closing = sync.close();
    await this.world.clock.pass(0);
    await closing;
  }
}
