// Keeps the parts of the page that are marked as live up to date. Without it the page refreshes itself.
(() => {
  'use strict';
  const EVERY_MS = 2000;
  const region = document.querySelector('[data-live]');
  const news = document.getElementById('news');
  if (!region) return;
  let last = Date.now(), timer = 0, loading = false;

  // Whether somebody has begun to fill in a form.
  const isEdited = (field) => {
    if (!field.options) return field.value !== field.defaultValue;
    const options = [...field.options];
    const first = options.find((option) => option.defaultSelected) ?? options[0];
    return !first.selected;
  };
  // Somebody who fills in a form or selects text is not disturbed.
  const isInUse = () => {
    const selection = getSelection();
    return region.querySelector('form :focus')
      || [...region.querySelectorAll('input, select')].some(isEdited)
      || (!selection.isCollapsed && region.contains(selection.anchorNode));
  };
  // A selector of the element that has the focus, to find the one that replaces it.
  const focused = () => {
    const element = document.activeElement;
    if (!region.contains(element)) return null;
    if (element.id) return `#${CSS.escape(element.id)}`;
    return element.hasAttribute('href') ? `[href="${CSS.escape(element.getAttribute('href'))}"]` : null;
  };
  const verdict = () => region.querySelector('.verdict')?.textContent ?? '';

  const swap = async () => {
    timer = 0;
    if (loading || document.hidden || isInUse()) return;
    loading = true;
    last = Date.now();
    try {
      const url = new URL(location.href);
      url.searchParams.set('fragment', '1');
      const answer = await fetch(url, { headers: { accept: 'text/html' }, redirect: 'error' });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(answer.status);
      const content = await answer.text();
      if (!isInUse()) {
        const [focus, before] = [focused(), verdict()];
        region.innerHTML = content;
        if (focus) region.querySelector(focus)?.focus({ preventScroll: true });
        // Screen readers say it when it changes, and only then.
        if (verdict() !== before) news.textContent = verdict();
      }
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
