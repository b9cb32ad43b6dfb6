import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts', 'test/**/*.test.tsx'],
    testTimeout: 20_000,
    // A warning, an error that nobody caught, a test left over: all are failures.
    dangerouslyIgnoreUnhandledErrors: false,
    allowOnly: false,
    onConsoleLog(log) {
      throw new Error(`a test printed: ${log.slice(0, 200)}`);
    },
  },
});
