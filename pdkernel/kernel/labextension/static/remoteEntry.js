// @ts-check
/*
 * The Lab side of pdkernel: gives step cells the colours of their language, makes `code.pd-k` copy its path, and
 * opens the page that a button `.pd-link` asks for.
 *
 * Hand-written and served as it stands: no bundler, no import, no inline script or style, so that it works under a
 * strict content security policy. Knows the directive's first line and the classes `pd-k`, `pd-link` and `pd-open`;
 * nothing of a kernel.
 */
(() => {
  'use strict';

  // ---- Colours -------------------------------------------------------------------------------------------------

  const MIME_TYPES = { node: 'text/javascript', bash: 'text/x-sh', go: 'text/x-go' };
  const DIRECTIVE = /^(?:[ \t]*(?:(?:#|\/\/)[^\n]*)?\n)*[ \t]*%%(pdstep|pdworkflow)(?:[ \t]+([^\n]*))?(?:\n|$)/;

  /** The MIME type of a cell by its directive; null leaves it the notebook's own. */
  function mimeTypeOf(source) {
    const found = DIRECTIVE.exec(source);
    if (!found) {
      return null;
    }
    const line = found[2] || '';
    if (found[1] === 'pdworkflow' || /(?:^|\s)--uses[ =]/.test(line)) {
      return 'text/x-yaml';
    }
    const language = /(?:^|\s)--lang[ =]+(\w+)/.exec(line);
    return (language && MIME_TYPES[language[1]]) || null;
  }

  /** Keep one cell's MIME type right, whoever changes it: Lab sets its own again with every kernel. */
  function watchCell(cell, notebook, languages) {
    let ours = false;
    const target = () => mimeTypeOf(cell.sharedModel.getSource()) ?? (ours ? notebook.codeMimetype : cell.mimeType);
    const apply = async () => {
      const wanted = target();
      if (cell.mimeType === wanted) {
        return;
      }
      // An editor loads a language's grammar and then shows it, even if another was asked for meanwhile: the first
      // grammar must have come, and been shown, before the second is asked for.
      await Promise.all([cell.mimeType, wanted].map(mime => languages.getLanguage(mime)));
      await new Promise(resolve => setTimeout(resolve));
      if (target() === wanted) {
        ours = wanted !== notebook.codeMimetype;
        cell.mimeType = wanted;
      }
    };
    cell.contentChanged.connect(apply);
    cell.mimeTypeChanged.connect(apply);
    apply();
  }

  function watchNotebook(panel, languages) {
    const seen = new WeakSet();
    const watchAll = () => {
      for (const cell of panel.content.model?.cells ?? []) {
        if (cell.type === 'code' && !seen.has(cell)) {
          seen.add(cell);
          watchCell(cell, panel.content, languages);
        }
      }
    };
    panel.context.ready.then(() => {
      panel.content.model?.cells.changed.connect(watchAll);
      watchAll();
    });
  }

  // ---- Paths that copy -----------------------------------------------------------------------------------------

  const KEY = 'code.pd-k';
  const FEEDBACK_MS = 1500;
  const CSS = `
    ${KEY} { cursor: copy; border-radius: 2px; position: relative; }
    ${KEY}:hover { background: var(--jp-layout-color2, #eee); }
    ${KEY}:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px; }
    ${KEY}.pd-copied::after, ${KEY}.pd-not-copied::after {
      position: absolute; left: calc(100% + 4px); top: 0; z-index: 10; padding: 0 6px; border-radius: 3px;
      white-space: nowrap; font-family: var(--jp-ui-font-family, sans-serif); font-size: 11px;
      color: var(--jp-ui-inverse-font-color1, #fff); background: var(--jp-inverse-layout-color2, #424242); }
    ${KEY}.pd-block.pd-copied::after, ${KEY}.pd-block.pd-not-copied::after { left: auto; right: 4px; top: 4px; }
    ${KEY}.pd-copied, ${KEY}.pd-not-copied { opacity: 1 !important; }
    ${KEY}.pd-copied::after { content: "copied"; }
    ${KEY}.pd-not-copied::after { content: "could not copy"; }`;

  /** The text that a key copies, or null. */
  function textOf(key) {
    const title = key.getAttribute('title') || '';
    return title.startsWith('Copy ') ? title.slice('Copy '.length) : null;
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return copyWithSelection(text); // no permission, or a page served over plain http from another machine
    }
  }

  function copyWithSelection(text) {
    const focused = document.activeElement;
    const area = document.createElement('textarea');
    area.value = text;
    area.style.position = 'fixed';
    area.style.opacity = '0';
    document.body.append(area);
    area.select();
    try {
      return document.execCommand('copy');
    } finally {
      area.remove();
      if (focused instanceof HTMLElement) {
        focused.focus();
      }
    }
  }

  /** A region that screen readers read out when its text changes. */
  function makeAnnouncer() {
    const region = document.createElement('div');
    region.id = 'pdkernel-announcer';
    region.setAttribute('role', 'status');
    region.setAttribute('aria-live', 'polite');
    Object.assign(region.style, {
      position: 'absolute', width: '1px', height: '1px', overflow: 'hidden', clipPath: 'inset(50%)', whiteSpace: 'nowrap'
    });
    document.body.append(region);
    return message => {
      region.textContent = '';
      setTimeout(() => { region.textContent = message; }, 50); // an unchanged text would not be read again
    };
  }

  /** Lab's sanitizer drops role and tabindex from saved outputs; a key is a button all the same. */
  function restoreButtons(root) {
    for (const key of root.querySelectorAll(`${KEY}[title^="Copy "]`)) {
      key.setAttribute('role', 'button');
      key.setAttribute('tabindex', '0');
    }
  }

  function watchKeys() {
    const sheet = new CSSStyleSheet(); // a style element would need style-src 'unsafe-inline'
    sheet.replaceSync(CSS);
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    const announce = makeAnnouncer();

    const onActivate = async event => {
      const key = event.target instanceof Element ? event.target.closest(KEY) : null;
      const text = key && textOf(key);
      if (!key || text === null) {
        return;
      }
      event.preventDefault();
      event.stopImmediatePropagation(); // Enter would put the cell into edit mode, Space would scroll
      const done = await copy(text);
      const feedback = done ? 'pd-copied' : 'pd-not-copied';
      key.classList.add(feedback);
      setTimeout(() => key.classList.remove(feedback), FEEDBACK_MS);
      announce(done ? `Copied ${text}` : `Could not copy ${text}`);
    };
    // On window and while capturing: Lab's own shortcuts listen on the document.
    window.addEventListener('click', onActivate, true);
    window.addEventListener('keydown', event => {
      const plain = !(event.ctrlKey || event.metaKey || event.altKey || event.shiftKey);
      if (plain && (event.key === 'Enter' || event.key === ' ')) {
        onActivate(event);
      }
    }, true);

    restoreButtons(document);
    new MutationObserver(records => {
      for (const record of records) {
        for (const node of record.addedNodes) {
          if (node instanceof Element && node.parentElement) {
            restoreButtons(node.matches(KEY) ? node.parentElement : node);
          }
        }
      }
    }).observe(document.body, { childList: true, subtree: true });
  }

  // ---- Pages that a button opens ----------------------------------------------------------------------------------

  const OPENS = '.pd-link';
  const PAGE = 'a.pd-open';
  const CLICK_MS = 4500; // a browser takes what is opened so soon after a click for a part of it
  const HERE = ['localhost', '127.0.0.1', '[::1]'];

  /**
   * A button `.pd-link` has the kernel make the address of a page, which arrives as a link `a.pd-open` a moment later: it is
   * followed as part of the click. Where that came too late, or the page is served on a machine that is not this one, the
   * link stays.
   */
  function watchPages() {
    const atHome = HERE.includes(window.location.hostname);
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(atHome ? '.pd-elsewhere { display: none; }' : '');
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    let clicked = -Infinity;
    window.addEventListener('click', event => {
      if (event.target instanceof Element && event.target.closest(OPENS)) {
        clicked = performance.now();
      }
    }, true);
    new MutationObserver(records => {
      if (performance.now() - clicked > CLICK_MS) {
        return;
      }
      for (const node of records.flatMap(record => [...record.addedNodes])) {
        const link = node instanceof Element ? (node.matches(PAGE) ? node : node.querySelector(PAGE)) : null;
        if (link && (atHome || !HERE.includes(link.hostname))) {
          clicked = -Infinity;
          follow(link.href);
          return;
        }
      }
    }).observe(document.body, { childList: true, subtree: true });
  }

  function follow(address) {
    const opened = window.open('', '_blank');
    if (opened) {
      opened.opener = null; // what is opened is not to lead this page elsewhere
      opened.location.replace(address);
    }
  }

  // ---- Lab's door ----------------------------------------------------------------------------------------------

  let tokens;

  const makePlugin = () => ({
    id: 'pdkernel:plugin',
    description: 'Colours of each step\'s language, paths that a click copies, and pages that a click opens.',
    autoStart: true,
    requires: tokens,
    activate: (_app, tracker, languages) => {
      watchKeys();
      watchPages();
      tracker.forEach(panel => watchNotebook(panel, languages));
      tracker.widgetAdded.connect((_sender, panel) => watchNotebook(panel, languages));
    }
  });

  const lab = /** @type {any} */ (window);
  lab._JUPYTERLAB = lab._JUPYTERLAB || {};
  lab._JUPYTERLAB.pdkernel = {
    init: async scope => {
      const shared = async name => (await Object.values(scope[name])[0].get())();
      const [notebook, codemirror] = await Promise.all(['@jupyterlab/notebook', '@jupyterlab/codemirror'].map(shared));
      tokens = [notebook.INotebookTracker, codemirror.IEditorLanguageRegistry];
    },
    get: async () => () => ({ __esModule: true, default: makePlugin() })
  };
})();
