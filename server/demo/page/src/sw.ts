/**
 * The service worker, which keeps the page's own files while the server is away. It asks the network first, so that a
 * new page is seen at once, and answers from its cache if the network does not. It handles no other request, and no data.
 */

interface Extended extends Event {
  waitUntil(work: Promise<unknown>): void;
}
interface Fetching extends Extended {
  readonly request: Request;
  respondWith(answer: Promise<Response>): void;
}
interface Worker {
  readonly location: Location;
  readonly clients: { claim(): Promise<void> };
  skipWaiting(): Promise<void>;
  addEventListener(type: 'install' | 'activate', listen: (event: Extended) => void): void;
  addEventListener(type: 'fetch', listen: (event: Fetching) => void): void;
}

const worker = globalThis as unknown as Worker;
const CACHE = 'atlas-sync-demo';
const FILES = ['/', '/page.js', '/page.css', '/demo.json'];
/** Milliseconds without an answer after which the server counts as away. */
const ANSWER_WITHIN = 3_000;

async function fresh(path: string): Promise<Response> {
  const answer = await fetch(path, { cache: 'no-cache', signal: AbortSignal.timeout(ANSWER_WITHIN) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  // Cached only after it was read completely.
  const body = await answer.blob();
  const { status, headers } = answer;
  const whole = new Response(body, { status, headers });
  await (await caches.open(CACHE)).put(path, whole.clone());
  return whole;
}

async function answer(path: string): Promise<Response> {
  try {
    return await fresh(path);
  } catch {
    return (await (await caches.open(CACHE)).match(path)) ?? Response.error();
  }
}

worker.addEventListener('install', (event) => {
  event.waitUntil(Promise.all(FILES.map(fresh)).then(() => worker.skipWaiting()));
});

worker.addEventListener('activate', (event) => event.waitUntil(worker.clients.claim()));

worker.addEventListener('fetch', (event) => {
  const { pathname, origin } = new URL(event.request.url);
  const path = pathname === '/index.html' ? '/' : pathname;
  if (event.request.method !== 'GET' || origin !== worker.location.origin || !FILES.includes(path)) return;
  event.respondWith(answer(path));
});
