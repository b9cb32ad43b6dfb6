/** Whose a token is. Nothing is verified here: the server does that. */

/** The user's id, or null if this is no token that can be read. */
export function subjectOf(token: string): string | null {
  try {
    const claims: unknown = JSON.parse(atob((token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/')));
    const subject = typeof claims === 'object' && claims !== null && 'sub' in claims ? claims.sub : null;
    return typeof subject === 'string' ? subject.toLowerCase() : null;
  } catch {
    return null;
  }
}
