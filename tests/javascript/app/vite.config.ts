import react from '@vitejs/plugin-react';
import vue from '@vitejs/plugin-vue';
import { defineConfig } from 'vite';

export default defineConfig({
  plugins: [react(), vue()],
  build: { rollupOptions: { input: ['index.html', 'plain.html', 'vue.html', 'others.html'] } },
});
