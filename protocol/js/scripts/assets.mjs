/** How built files are published: the name carries a hash of the content, and a compressed copy lies beside each file. */
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

/** Returns the name of a file with this content: «page.js» becomes «page-0123456789abcdef.js», with the start of SHA-256. */
export function hashed(name, content) {
  const hash = createHash('sha256').update(content).digest('hex').slice(0, 16);
  return name.replace(/(?=\.[^.]*$)/, `-${hash}`);
}

/** Writes a file, and its compressed copies `.br` and `.gz`. A copy that would not be smaller is not written. */
export async function publish(path, content) {
  const bytes = Buffer.from(content);
  const brotli = { [constants.BROTLI_PARAM_MODE]: constants.BROTLI_MODE_TEXT, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length };
  const copies = { '.br': brotliCompressSync(bytes, { params: brotli }), '.gz': gzipSync(bytes, { level: 9 }) };
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, bytes);
  for (const [suffix, copy] of Object.entries(copies)) if (copy.length < bytes.length) await writeFile(path + suffix, copy);
}
