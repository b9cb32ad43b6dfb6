/** Starts the page, and registers the service worker that keeps it while the server is away. */

import { h, render } from 'preact';

import { App } from './app.js';
import './page.css';
import { applyTheme } from './theme.js';

applyTheme();
const root = document.getElementById('app');
if (root !== null) render(h(App, null), root);

if ('serviceWorker' in navigator) {
  navigator.serviceWorker.register('/sw.js').catch(() => undefined); // without it, the page loads only while its server runs
}
