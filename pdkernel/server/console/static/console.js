// Keeps an open page up to date. Every page and every form also works without this script.
const region = document.querySelector('[data-events]');
const live = document.querySelector('#live');
const forms = document.querySelector('#actions');
const trigger = document.querySelector('#event');
const shown = new Map([region, forms, trigger].map((each) => [each, each?.innerHTML.trim()])); // before a person types
let source = null;
let ended = false;

function parse(html) {
  const template = document.createElement('template');
  template.innerHTML = html.trim(); // escaped by the server
  return template;
}

function showRow({ id, html }) {
  const row = parse(html).content.firstElementChild;
  const old = document.getElementById(`run-${id}`);
  if (old?.dataset.version === row.dataset.version) return;
  if (old) {
    const focused = old.contains(document.activeElement);
    old.replaceWith(row);
    if (focused) row.querySelector('a').focus();
  } else {
    const later = [...region.children].find((each) => each.dataset.started < row.dataset.started);
    region.insertBefore(row, later ?? null);
    while (region.children.length > 200) region.lastElementChild.remove();
    const older = document.querySelector('#older');
    if (older) {
      const url = new URL(older.href);
      url.searchParams.set('before', region.lastElementChild.id.slice('run-'.length));
      older.href = url;
    }
  }
  document.querySelector('#none').hidden = true;
  const name = row.querySelector('.name').textContent;
  live.textContent = `${row.querySelector('.state').textContent.trim()}: ${name}`;
}

// replaces content that has changed; open parts, typed text and the focus stay where the new content has the same element
function showContent(container, html) {
  const markup = parse(html).innerHTML;
  if (markup === shown.get(container)) return;
  shown.set(container, markup);
  const find = (selector) => [...container.querySelectorAll(selector)];
  const open = find('details').map((each) => each.open);
  const typed = find('input:not([type=hidden]), textarea').map(({ name, value }) => [name, value]);
  const key = ({ tagName, name, title }) => `${tagName} ${name} ${title}`;
  const alike = (element) => find('a, button, summary, input, select, textarea, code').filter((each) => key(each) === key(element));
  const focused = container.contains(document.activeElement) ? document.activeElement : null;
  const index = focused && alike(focused).indexOf(focused);

  container.innerHTML = markup;
  prepareKeys();
  find('details').forEach((each, number) => { if (open[number]) each.open = true; });
  for (const [name, value] of typed) {
    const field = container.querySelector(`[name="${CSS.escape(name)}"]`);
    if (field && value) field.value = value;
  }
  const same = focused && alike(focused)[index];
  same?.focus();
  if (same?.tagName === 'TEXTAREA') same.setSelectionRange(focused.selectionStart, focused.selectionEnd);
}

function showRun({ event, timeline, actions, status }) {
  showContent(trigger, event);
  showContent(region, timeline);
  showContent(forms, actions);
  live.textContent = `Status: ${status}`;
}

function connect() {
  if (ended || source || document.hidden) return;
  source = new EventSource(region.dataset.events);
  source.addEventListener('row', (event) => showRow(JSON.parse(event.data)));
  source.addEventListener('run', (event) => showRun(JSON.parse(event.data)));
  source.addEventListener('end', () => { ended = true; disconnect(); });
  source.addEventListener('open', () => document.body.classList.add('live'));
  source.addEventListener('error', () => {
    document.body.classList.remove('live');
    if (source?.readyState !== EventSource.CLOSED) return; // the browser connects again
    disconnect();
    live.textContent = 'Updates have ended: the session or the server has. Load the page again.';
  });
}

function disconnect() {
  source?.close();
  source = null;
  document.body.classList.remove('live');
}

if (region) {
  // a browser opens few connections to a server: a hidden page needs none
  document.addEventListener('visibilitychange', () => (document.hidden ? disconnect() : connect()));
  addEventListener('pagehide', disconnect);
  addEventListener('pageshow', connect);
  connect();
}

// a click on a part of an input or export, or Enter, copies the path that its title names
function prepareKeys() {
  for (const key of document.querySelectorAll('code.pd-k')) {
    if (key.closest('summary')) continue; // a button in a summary would be a second target of one key press
    key.tabIndex = 0;
    key.role = 'button';
  }
}

async function copyPath(key) {
  const path = key.title.replace(/^Copy /, '');
  const done = await (navigator.clipboard?.writeText(path).then(() => true, () => false) ?? false);
  key.classList.add(done ? 'pd-copied' : 'pd-not-copied');
  setTimeout(() => key.classList.remove('pd-copied', 'pd-not-copied'), 1500);
  live.textContent = done ? `Copied ${path}` : `Could not copy ${path}`;
}

for (const type of ['click', 'keydown']) {
  document.addEventListener(type, (event) => {
    const key = event.target.closest?.('code.pd-k');
    if (!key || (type === 'keydown' && event.key !== 'Enter')) return;
    event.preventDefault(); // a click in a summary does not open it
    copyPath(key);
  });
}
prepareKeys();

// a second click does not act twice
document.addEventListener('submit', (event) => {
  if (event.target.dataset.sent) event.preventDefault();
  if (event.target.method === 'post') event.target.dataset.sent = 'yes';
});
addEventListener('pageshow', () => { for (const form of document.forms) delete form.dataset.sent; });
