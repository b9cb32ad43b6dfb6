import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts', 'test/**/*.test.tsx'],
    isolate: false, // the files share one process, which takes a third less of a processor; so each leaves it clean
    restoreMocks: true,
    unstubGlobals: true,
    testTimeout: 120_000, // against hanging only: the property tests take long where processors are shared
    // Printed output, unhandled errors and focused tests are failures.
    dangerouslyIgnoreUnhandledErrors: false,
    allowOnly: false,
    onConsoleLog(log) {
      throw new Error(`a test printed: ${log.slice(0, 200)}`);
    },
  },
});
