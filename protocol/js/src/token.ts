/** Access tokens: what the app is asked for, and whose a token is. The server alone verifies tokens. */

import { Trouble } from './reason.js';

/**
 * Why a token is needed. refused: the server did not accept the last one, so get a new one, even if the last one still
 * looks valid · expiring: the connection needs a later one soon.
 */
export type TokenReason = 'connecting' | 'expiring' | 'refused';
export type GetToken = (reason: TokenReason) => string | Promise<string>;

/** `getToken` gave a token that must not be used. The message says what to do. */
export class TokenError extends Error {
  override name = 'TokenError';
}

/** Returns the token. Throws TokenError unless it is a readable JWT of this user. */
export function ownToken(token: string, user: string): string {
  const subject = subjectOf(token);
  if (subject === user.toLowerCase()) return token;
  throw new TokenError(
    subject === null
      ? 'getToken() gave no JWT with a `sub`: give the one that the server verifies'
      : "getToken() gave another user's token: make a Sync, with a store of its own, for each user",
  );
}

/** The user's id; null if the token cannot be read. */
function subjectOf(token: string): string | null {
  try {
    const payload = (token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/');
    const claims = JSON.parse(atob(payload + '='.repeat(-payload.length & 3))) as { readonly sub?: unknown };
    return typeof claims.sub === 'string' ? claims.sub.toLowerCase() : null;
  } catch {
    return null;
  }
}

/** The tokens of one connection after the other. */
export class Tokens {
  /** The last one that was sent. */
  private offered: string | null = null;
  /** One that ended a connection. */
  private refused: string | null = null;
  private reason: TokenReason = 'connecting';

  constructor(private readonly getToken: GetToken) {}

  /** One for a new connection. Throws if the app gives the refused one again. */
  async forConnection(): Promise<string> {
    const token = await this.getToken(this.reason);
    if (token === this.refused) {
      const sentence = 'the server refused the token, and getToken() gave it again: it must get another one';
      throw new Trouble('token_refused', sentence);
    }
    return token;
  }

  /** One for the living connection; null if the app has no other than the one that was sent. */
  async forRefresh(): Promise<string | null> {
    const token = await this.getToken(this.reason === 'refused' ? 'refused' : 'expiring');
    return token === this.offered ? null : token;
  }

  sent(token: string): void {
    this.offered = token;
  }

  accepted(): void {
    this.refused = null;
    this.reason = 'connecting';
  }

  /** `ended`: the refusal ended the connection. */
  rejected(ended: boolean): void {
    this.reason = 'refused';
    if (ended) this.refused = this.offered;
  }
}
