/** The client over a real WebSocket, in MessagePack and in JSON, with the system's timers. */

import { decode, encode } from '@msgpack/msgpack';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { WebSocketServer } from 'ws';

import { codecsFor, type Encoding } from '../src/codec.js';
import { newId } from '../src/uuid.js';
import { device, live, until } from './support/device.js';
import { ModelServer, Peer } from './support/model.js';
import { CHAT_KINDS, id, tokenOf } from './support/rows.js';

/** The model server speaks JSON: converts its ids and cursors to bytes, and back. */
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const CURSORS = ['cursor', 'from', 'to'];
const packed = (value: unknown, key = ''): unknown => {
  if (typeof value === 'string') {
    if (UUID.test(value)) return Uint8Array.from(Buffer.from(value.replaceAll('-', ''), 'hex'));
    return CURSORS.includes(key) ? Uint8Array.from(Buffer.from(value, 'base64')) : value;
  }
  if (Array.isArray(value)) return value.map((item) => packed(item));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, packed(item, name)]));
};
const unpacked = (value: unknown, key = ''): unknown => {
  if (value instanceof Uint8Array) {
    if (CURSORS.includes(key)) return Buffer.from(value).toString('base64');
    return Buffer.from(value)
      .toString('hex')
      .replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, '$1-$2-$3-$4-$5');
  }
  if (Array.isArray(value)) return value.map((item) => unpacked(item));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, unpacked(item, name)]));
};

describe.each<Encoding>(['msgpack', 'json'])('%s', (encoding) => {
  const model = new ModelServer();
  let wss: WebSocketServer;
  let url: string;

  beforeEach(async () => {
    wss = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    wss.on('connection', (ws) => {
      expect(ws.protocol).toBe(codecsFor(CHAT_KINDS)[encoding].subprotocol);
      const binary = encoding === 'msgpack';
      const peer = new Peer(
        model,
        (text) => ws.send(binary ? encode(packed(JSON.parse(text))) : text),
        (code) => (code === 1006 ? ws.terminate() : ws.close(code)),
      );
      ws.on('message', (data: Buffer) =>
        peer.receive(binary ? JSON.stringify(unpacked(decode(data))) : data.toString()),
      );
      ws.on('close', () => peer.shut(1000));
    });
    await new Promise((resolve) => wss.on('listening', resolve));
    url = `ws://127.0.0.1:${(wss.address() as AddressInfo).port}/sync`;
  });
  afterEach(() => new Promise((resolve) => wss.close(resolve)));

  it('two devices exchange writes, lose their connections and come back', async () => {
    const [a, b] = [
      device({ url, user: id(1), getToken: () => tokenOf(id(1)), encoding }),
      device({ url, user: id(1), getToken: () => tokenOf(id(1)), encoding }),
    ];
    await Promise.all([live(a), live(b)]);
    const home = await a.createConversation('Привет');
    const key = newId();
    await a.sendMessage(home, 'one 🚲', { id: key });
    await until(b.messages(home), ({ rows }) => rows[0]?.content === 'one 🚲');
    for (const peer of [...model.peers]) peer.shut(1006);
    await b.editMessage(key, 'two');
    await until(a.messages(home), ({ rows }) => rows[0]?.content === 'two' && rows[0].state === 'synced');
    await Promise.all([a.close(), b.close()]);
  });
});
