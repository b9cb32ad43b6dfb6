/**
 * The service worker, which keeps the page's own files while the server is away. For documents it asks the network first,
 * so that a new page is seen at once, and answers from its cache if the network does not. Assets never change under their
 * names, so it asks for each of them once. It handles no other request, and no data.
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
const DOCUMENTS = ['/', '/demo.json'];
/** The paths of this version's assets, which the build inserts. Their names carry a hash of their content. */
declare const ASSETS: readonly string[];
/** Milliseconds without an answer after which the server counts as away. */
const ANSWER_WITHIN = 3_000;

async function fetched(path: string, how: RequestInit): Promise<Response> {
  const answer = await fetch(path, how);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  // Cached only after it was read completely.
  const body = await answer.blob();
  const { status, headers } = answer;
  const whole = new Response(body, { status, headers });
  await (await caches.open(CACHE)).put(path, whole.clone());
  return whole;
}

const kept = async (path: string) => (await caches.open(CACHE)).match(path);
const fresh = (path: string) => fetched(path, { cache: 'no-cache', signal: AbortSignal.timeout(ANSWER_WITHIN) });
const newest = (path: string) => fresh(path).catch(async () => (await kept(path)) ?? Response.error());
const once = async (path: string) => (await kept(path)) ?? fetched(path, {});

async function forgetEarlierVersions(): Promise<void> {
  const cache = await caches.open(CACHE);
  const current = [...DOCUMENTS, ...ASSETS];
  const earlier = (await cache.keys()).filter(({ url }) => !current.includes(new URL(url).pathname));
  await Promise.all(earlier.map((request) => cache.delete(request)));
}

worker.addEventListener('install', (event) => {
  event.waitUntil(Promise.all([...ASSETS.map(once), ...DOCUMENTS.map(fresh)]).then(() => worker.skipWaiting()));
});

worker.addEventListener('activate', (event) => event.waitUntil(forgetEarlierVersions().then(() => worker.clients.claim())));

worker.addEventListener('fetch', (event) => {
  const { pathname, origin } = new URL(event.request.url);
  const path = pathname === '/index.html' ? '/' : pathname;
  if (event.request.method !== 'GET' || origin !== worker.location.origin) return;
  if (DOCUMENTS.includes(path)) event.respondWith(newest(path));
  else if (path.startsWith('/assets/')) event.respondWith(once(path));
});
