// Keeps the parts of the page that are marked as live up to date. Without it the page refreshes itself.
(() => {
  'use strict';
  const EVERY_MS = 2000;
  const region = document.querySelector('[data-live]');
  if (!region) return;
  let last = Date.now(), timer = 0, loading = false;

  const swap = async () => {
    timer = 0;
    // A form that is being filled in is left alone.
    if (loading || document.hidden || region.querySelector('form :focus')) return;
    loading = true;
    last = Date.now();
    try {
      const url = new URL(location.href);
      url.searchParams.set('fragment', '1');
      const answer = await fetch(url, { headers: { accept: 'text/html' }, redirect: 'error' });
      if (!answer.ok) throw new Error(answer.status);
      const focused = region.contains(document.activeElement) && document.activeElement.id;
      region.innerHTML = await answer.text();
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
      region.removeAttribute('data-stale');
    } catch {
      region.setAttribute('data-stale', '');
    }
    loading = false;
  };

  const soon = () => {
    if (!timer) timer = setTimeout(swap, Math.max(0, last + EVERY_MS - Date.now()));
  };

  const events = new EventSource(region.dataset.live);
  for (const name of ['state', 'mode', 'weight', 'joined', 'replaced', 'left', 'address-changed', 'draining', 'drained', 'moved', 'missed']) {
    events.addEventListener(name, soon);
  }
  // Requests are no events: their numbers are read from time to time.
  setInterval(soon, EVERY_MS);
  document.addEventListener('visibilitychange', soon);
  window.addEventListener('pagehide', () => events.close());
})();
