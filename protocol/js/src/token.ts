/** Whose a token is. Nothing is verified here: the server does that. */

/** `getToken` gave a token that must not be used; the words say what to do. */
export class TokenError extends Error {
  override name = 'TokenError';
}

/** The token. Throws TokenError unless it can be read and is this user's. */
export function ownToken(token: string, user: string): string {
  const subject = subjectOf(token);
  if (subject === user.toLowerCase()) return token;
  throw new TokenError(
    subject === null
      ? 'getToken() gave no JWT with a `sub`: give the one that the server verifies'
      : "getToken() gave another user's token: make a Sync, with a store of its own, for each user",
  );
}

/** The user's id; null if this is no token that can be read. */
function subjectOf(token: string): string | null {
  try {
    const payload = (token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/');
    const claims = JSON.parse(atob(payload + '='.repeat(-payload.length & 3))) as { readonly sub?: unknown };
    return typeof claims.sub === 'string' ? claims.sub.toLowerCase() : null;
  } catch {
    return null;
  }
}
