// @ts-check
/*
 * pdkernel's JupyterLab extension: highlights step cells in their language, copies the path of a clicked `code.pd-k`, opens the
 * page that a button `.pd-link` requests, interrupts the kernel for a button `.pd-stop`, writes the cell that a button `.pd-write`
 * requests, and shows saved forms without their kernel. It sends the cells of the workflow to the kernel as the screen shows them, and
 * asks the kernel to run stale steps after a click on their mark. It adds steps to the branches of a block, and renames blocks.
 *
 * It is written by hand and served unchanged: without bundler, import, inline script or inline style, so that it works under a
 * strict content security policy. It reads step cells, and the HTML and classes `pd-...` of outputs.
 */
(() => {
  'use strict';

  // ---- Highlighting of step cells ---------------------------------------------------------------------------------

  const MIME_TYPES = { node: 'text/javascript', bash: 'text/x-sh', go: 'text/x-go' };
  const DIRECTIVE = /^(?:[ \t]*(?:(?:#|\/\/)[^\n]*)?\n)*[ \t]*%%(pdstep|pdworkflow|pdif|pdswitch|pdparallel)(?:[ \t]+([^\n]*))?(?:\n|$)/;

  /** The MIME type of a cell by its directive; null for a cell without one, or in Python. */
  function mimeTypeOf(source) {
    const found = DIRECTIVE.exec(source);
    if (!found) {
      return null;
    }
    const line = found[2] || '';
    if (found[1] !== 'pdstep' || /(?:^|\s)--uses[ =]/.test(line)) {
      return 'text/x-yaml';
    }
    const language = /(?:^|\s)--lang[ =]+(\w+)/.exec(line);
    return (language && MIME_TYPES[language[1]]) || null;
  }

  /** Set a cell's MIME type, and set it again after each change: JupyterLab resets it with every kernel. */
  function watchCell(cell, notebook, languages) {
    let isSet = false;
    const target = () => mimeTypeOf(cell.sharedModel.getSource()) ?? (isSet ? notebook.codeMimetype : cell.mimeType);
    const apply = async () => {
      const wanted = target();
      if (cell.mimeType === wanted) {
        return;
      }
      // An editor loads a grammar and then applies it, even if another grammar was set in the meantime. So the current grammar must
      // be loaded and applied before the next one is set.
      await Promise.all([cell.mimeType, wanted].map(mime => languages.getLanguage(mime)));
      await new Promise(resolve => setTimeout(resolve));
      if (target() === wanted) {
        isSet = wanted !== notebook.codeMimetype;
        cell.mimeType = wanted;
      }
    };
    cell.contentChanged.connect(apply);
    cell.mimeTypeChanged.connect(apply);
    apply();
  }

  // ---- The notebook as the screen shows it --------------------------------------------------------------------------

  const COMM = 'pdkernel.notebook';
  const KERNEL = 'pdkernel';
  const LOADS_PDKERNEL = /^\s*%(?:re)?load_ext\s+pdkernel\b/m;
  const CHANGE_MS = 200; // a pause in typing

  /** Sends the workflow's cells of a notebook to its kernel: after each change, and before and after a cell runs. */
  class NotebookSender {
    constructor(panel) {
      this.panel = panel;
      this.page = `${Date.now()}-${Math.random()}`;
      this.revision = 0;
      this.comm = null;
      this.commKernel = null; // the kernel of the comm; the panel has none when it is closed
      this.refusedBy = null; // the id of a kernel without pdkernel
      this.timer = null;
      this.sent = '';
      const { sessionContext, context } = panel;
      sessionContext.kernelChanged.connect(() => this.connect());
      sessionContext.statusChanged.connect((_sender, status) => {
        if (status === 'restarting' || status === 'autorestarting') {
          this.comm = this.refusedBy = null;
        } else if (status === 'idle' && this.kernel?.name === KERNEL) {
          this.open();
        }
      });
      context.model.contentChanged.connect(() => {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.flush(), CHANGE_MS);
      });
      panel.disposed.connect(() => this.close());
      context.ready.then(() => sessionContext.ready).then(() => this.connect());
    }

    get kernel() {
      return this.panel.isDisposed ? null : this.panel.sessionContext.session?.kernel ?? null;
    }

    /** The cells that belong to the workflow, with their places among all cells. */
    read() {
      const cells = [];
      let index = 0;
      for (const cell of this.panel.content.model?.cells ?? []) {
        const [source, pdkernel] = [cell.sharedModel.getSource(), cell.getMetadata('pdkernel') ?? {}];
        if (cell.type === 'code' ? DIRECTIVE.test(source) : Object.keys(pdkernel).length > 0) {
          cells.push({ index, id: cell.id, type: cell.type, source, pdkernel });
        }
        index++;
      }
      return cells;
    }

    /** Open a comm if the kernel has loaded pdkernel: the workflow kernel, or a kernel with a comm of an earlier page. */
    async connect() {
      this.comm = null;
      const kernel = this.kernel;
      if (kernel?.name === KERNEL) {
        await kernel.info;
        this.open();
      } else if (kernel) {
        const reply = await kernel.requestCommInfo({ target_name: COMM });
        if (kernel === this.kernel && Object.keys(reply.content.comms ?? {}).length > 0) {
          this.open();
        }
      }
    }

    open() {
      const kernel = this.kernel;
      if (!kernel || this.comm || !kernel.handleComms || this.refusedBy === kernel.id) {
        return;
      }
      const comm = (this.comm = kernel.createComm(COMM));
      this.commKernel = kernel;
      comm.onClose = () => {
        if (this.comm === comm) {
          this.comm = null;
          this.refusedBy = kernel.id;
        }
      };
      comm.onMsg = message => notify(message.content.data.error);
      comm.open(this.message(this.read()));
    }

    message(cells) {
      this.sent = JSON.stringify(cells);
      return { page: this.page, revision: this.revision++, cells };
    }

    /** Send the cells now if they have changed. */
    flush() {
      clearTimeout(this.timer);
      const cells = this.comm && !this.panel.isDisposed ? this.read() : null;
      if (cells && JSON.stringify(cells) !== this.sent) {
        this.comm.send(this.message(cells));
      }
    }

    /**
     * Send the *cells* in the order of the requests to run cells: a comm's own messages may overtake them, or come later.
     * `null` says that the page leaves.
     */
    sendInOrder(cells = this.read()) {
      const { comm, commKernel: kernel } = this;
      if (comm && !comm.isDisposed) {
        const content = { comm_id: comm.commId, data: this.message(cells) };
        const header = { msgType: 'comm_msg', channel: 'shell', username: kernel.username, session: kernel.clientId };
        kernel.sendShellMessage(services.KernelMessage.createMessage({ ...header, content }), false, true);
      }
    }

    onExecuted(cell) {
      if (LOADS_PDKERNEL.test(cell.model.sharedModel.getSource())) {
        this.refusedBy = null;
        this.open();
      }
      this.sendInOrder(); // a cell that was edited while it waited ran with its text of before
    }

    /** Ask the kernel to run the stale steps; returns whether the kernel was asked. */
    runStale() {
      this.flush();
      this.comm?.send({ run: 'stale' });
      return this.comm !== null;
    }

    /** Tell the kernel that the page leaves. The kernel's end of the comm stays: it shows the next page that pdkernel is loaded. */
    close() {
      clearTimeout(this.timer);
      this.sendInOrder(null);
      this.comm?.dispose();
      this.comm = null;
    }
  }

  const senders = new Map();

  /** The sender of the notebook that contains *node*; undefined outside a notebook. */
  function senderOf(node) {
    return [...senders.values()].find(sender => sender.panel.node.contains(node));
  }

  function notify(text) {
    if (text) {
      apputils.Notification.error(text, { autoClose: false });
    }
  }

  function watchSending() {
    const { executionScheduled, executed } = notebook.NotebookActions;
    executionScheduled.connect((_sender, { notebook: content }) => senderOf(content.node)?.sendInOrder());
    executed.connect((_sender, { notebook: content, cell }) => senderOf(content.node)?.onExecuted(cell));
    // before a button of a form can act on an edit, and before the page is left
    window.addEventListener('pointerdown', () => senders.forEach(sender => sender.flush()), true);
    window.addEventListener('pagehide', () => senders.forEach(sender => sender.close()));
  }

  // ---- Marks of stale steps ----------------------------------------------------------------------------------------

  const STALE = '.pd-stale';

  /** A click on the mark of a stale step runs the stale steps. */
  function watchStaleMarks() {
    const onActivate = event => {
      const mark = event.target instanceof Element ? event.target.closest(STALE) : null;
      const sender = mark && senderOf(mark);
      if (!mark || !sender || mark.getAttribute('aria-disabled')) {
        return;
      }
      event.preventDefault();
      event.stopImmediatePropagation();
      if (sender.runStale()) {
        mark.setAttribute('aria-disabled', 'true'); // until the kernel draws the result
      } else {
        notify('The kernel is not running. Run the cell again.');
      }
    };
    onPress(onActivate);
  }

  // ---- Steps and names of blocks -----------------------------------------------------------------------------------

  const ADD = 'code.pd-add';
  const RENAME = 'code.pd-rename';
  const ADD_TITLE = /^Add a step to (\w+)\.(\w+) below (\w+)$/;
  const RENAME_TITLE = /^Rename the block (\w+)$/;
  const NAMED = /^((?:[ \t]*(?:(?:#|\/\/)[^\n]*)?\n)*[ \t]*%%pd(?:step|if|switch|parallel)[ \t]+)(\w+)/;
  const STEP_NAME = /^[A-Za-z_]\w*$/;

  /** The name of the step or block of a cell with *source*; undefined for another cell. */
  const nameOf = source => NAMED.exec(source)?.[2];

  /** Write a step of *branch* below the cell of the step or block *below*, and select it. It does not run. */
  function addStep(content, block, branch, below) {
    const model = content.model.sharedModel;
    const names = model.cells.map(cell => (cell.cell_type === 'code' ? nameOf(cell.getSource()) : undefined));
    const above = names.includes(below) ? names.lastIndexOf(below) : names.lastIndexOf(block);
    if (above < 0) {
      notify(`The notebook has no cell of the block ${block}. Run the cell again.`);
      return;
    }
    let name = `${branch}_step`;
    for (let number = 2; names.includes(name); number++) {
      name = `${branch}_step${number}`;
    }
    const source = `%%pdstep ${name} --in ${block}.${branch}\ndef handler(pd):\n    return None`;
    model.insertCell(above + 1, { cell_type: 'code', source, metadata: { trusted: true } });
    content.deselectAll();
    content.activeCellIndex = above + 1;
    content.scrollToItem(above + 1, 'smart');
    content.mode = 'edit';
  }

  /** Rename *block* in its own cell, in `--in` of the cells inside, and where code reads `steps.NAME`; then run the block's cell. */
  async function renameBlock(panel, block) {
    const asked = await apputils.InputDialog.getText({ title: `Rename the block ${block}`, label: 'New name', text: block });
    const name = asked.button.accept ? (asked.value ?? '').trim() : block;
    if (name === block) {
      return;
    }
    const content = panel.content;
    const model = content.model.sharedModel;
    const cells = model.cells.filter(cell => cell.cell_type === 'code' && DIRECTIVE.test(cell.getSource()));
    if (!STEP_NAME.test(name) || name === 'trigger') {
      notify(`${name} is not a name for a block: use letters, digits and underscores, and begin with a letter.`);
      return;
    }
    if (cells.some(cell => nameOf(cell.getSource()) === name)) {
      notify(`Another step or block has the name ${name}. Choose another name.`);
      return;
    }
    const inside = new RegExp(`^(.*%%pd(?:step|if|switch|parallel)[^\\n]*?--in(?:[ \\t]+|=))${block}(?=\\.)`, 'm');
    const reads = new RegExp(`(\\bsteps(?:\\??\\.|\\[\\s*["']))${block}(?!\\w)`, 'g');
    const own = new RegExp(`(%%pd(?:if|switch|parallel)[ \\t]+)${block}(?!\\w)`);
    model.transact(() => {
      for (const cell of cells) {
        const before = cell.getSource();
        let after = before.replace(inside, `$1${name}`).replace(reads, `$1${name}`);
        if (nameOf(before) === block) {
          after = after.replace(own, `$1${name}`);
        }
        if (after !== before) {
          cell.setSource(after);
        }
      }
    });
    content.deselectAll();
    content.activeCellIndex = model.cells.findIndex(cell => cell.cell_type === 'code' && nameOf(cell.getSource()) === name);
    await notebook.NotebookActions.run(content, panel.sessionContext);
  }

  /** A click on an action of a block's outline adds a step, or asks for a new name. */
  function watchBlocks() {
    onPress(event => {
      const action = event.target instanceof Element ? event.target.closest(`${ADD}, ${RENAME}`) : null;
      const panel = action && senderOf(action)?.panel;
      if (!panel) {
        return;
      }
      event.preventDefault();
      event.stopImmediatePropagation();
      const added = ADD_TITLE.exec(action.title);
      const renamed = RENAME_TITLE.exec(action.title);
      if (added) {
        addStep(panel.content, added[1], added[2], added[3]);
      } else if (renamed) {
        renameBlock(panel, renamed[1]);
      }
    });
  }

  // ---- Forms without their kernel ----------------------------------------------------------------------------------

  const VIEW = 'application/vnd.jupyter.widget-view+json';
  const FALLBACK = 'class="pd-fallback"';
  const LOADING_MS = 1000; // a form of a running kernel appears sooner

  /**
   * Show the HTML of a form's output in the place of "Loading widget..." or "Error displaying widget": JupyterLab prefers the widget
   * even if the model is missing. If the model arrives later, its view replaces the HTML.
   */
  function watchForms(panel) {
    const show = async () => {
      for (const area of panel.content.widgets.map(cell => cell.outputArea).filter(Boolean)) {
        for (let index = 0; index < area.model.length; index++) {
          const output = area.model.get(index);
          const node = area.widgets[index]?.node.querySelector(`[data-mime-type="${VIEW}"]`);
          if (!node || node.childElementCount || !node.textContent || !String(output.data['text/html']).includes(FALLBACK)) {
            continue;
          }
          const renderer = panel.content.rendermime.createRenderer('text/html');
          await renderer.renderModel(output);
          if (!node.childElementCount) {
            node.replaceChildren(renderer.node);
          }
        }
      }
    };
    let timer;
    const observer = new MutationObserver(() => {
      clearTimeout(timer);
      timer = setTimeout(show, LOADING_MS);
    });
    observer.observe(panel.content.node, { childList: true, subtree: true });
    panel.disposed.connect(() => {
      clearTimeout(timer);
      observer.disconnect();
    });
  }

  // ---- Cells that a form writes ------------------------------------------------------------------------------------

  const WRITE_BUTTON = '.pd-write';
  const WRITE_FIELDS = '.pd-write-fields';
  const NEW_CELL = '.pd-new-cell';
  const ACTION_STEP = /^[ \t]*%%pdstep[ \t]+(\w+)[ \t].*--uses[ =]([^\s@]+)/m;

  /**
   * After a click on a button `.pd-write`, or Enter in a field of its form, the kernel checks the fields and outputs the cell as a
   * `.pd-new-cell`. The cell is written below the form, or into the cell of the same step and action, and selected. It does not run.
   */
  function watchNewCells(panel) {
    const notebook = panel.content;
    let form = null;
    const onPress = event => {
      const target = event.target instanceof Element ? event.target : null;
      if (event.type === 'click' ? target?.closest(WRITE_BUTTON) : event.key === 'Enter' && target?.closest(WRITE_FIELDS)) {
        form = target.closest('.jp-Cell');
      }
    };
    notebook.node.addEventListener('click', onPress, true);
    notebook.node.addEventListener('keydown', onPress, true);
    const observer = new MutationObserver(() => {
      const written = form?.querySelector(`${NEW_CELL}:not(.pd-written)`);
      const source = written?.querySelector('code')?.textContent.replace(/\n$/, '');
      const above = notebook.widgets.findIndex(cell => cell.node === form);
      if (!source || above < 0) {
        return;
      }
      form = null;
      written.classList.add('pd-written');
      writeCell(notebook, source, above);
    });
    observer.observe(notebook.node, { childList: true, subtree: true });
    panel.disposed.connect(() => observer.disconnect());
  }

  function writeCell(notebook, source, above) {
    const model = notebook.model.sharedModel;
    const keyOf = text => (ACTION_STEP.exec(text) ?? []).slice(1).join(' ');
    let index = model.cells.findIndex(cell => cell.cell_type === 'code' && keyOf(cell.getSource()) === keyOf(source));
    if (index >= 0) {
      model.getCell(index).setSource(source);
    } else {
      index = above + 1;
      model.insertCell(index, { cell_type: 'code', source, metadata: { trusted: true, vscode: { languageId: 'yaml' } } });
    }
    notebook.deselectAll();
    notebook.activeCellIndex = index;
    notebook.mode = 'command';
    notebook.activate();
    notebook.scrollToItem(index, 'smart');
  }

  function watchNotebook(panel, languages) {
    watchForms(panel);
    senders.set(panel, new NotebookSender(panel));
    panel.disposed.connect(() => senders.delete(panel));
    watchNewCells(panel);
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

  // ---- Copying of paths -------------------------------------------------------------------------------------------

  const KEY = 'code.pd-k';
  const FORM_LINE = '[data-form]';
  const OTHER = `${KEY}[class*="pd-for-"]`; // the same path in another language
  const LANGUAGE_NAMES = { python: 'Python', node: 'Node.js', bash: 'Bash', go: 'Go', action: 'a prop' };
  const FEEDBACK_MS = 1500;
  const CSS = `
    ${KEY} { cursor: copy; border-radius: 2px; position: relative; }
    ${STALE} { cursor: pointer; }
    ${STALE} > span::after { content: " \\21bb"; }
    ${STALE}:hover { text-decoration: underline; }
    ${STALE}:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px; }
    ${STALE}[aria-disabled] { cursor: progress; opacity: 0.6; }
    ${ADD}.pd-add, ${RENAME}.pd-rename { display: inline-block !important; cursor: pointer; padding: 0 8px; border-radius: 3px;
      font-family: var(--jp-ui-font-family, sans-serif); font-size: 85%; border: 1px solid var(--jp-border-color1, #bdbdbd);
      color: var(--jp-content-font-color1, #24292f); background: transparent; }
    ${ADD}::before { content: "Add a step here"; }
    ${RENAME}::before { content: "Rename"; }
    :is(${ADD}, ${RENAME}):hover { background: var(--jp-layout-color2, #eee) !important; }
    :is(${ADD}, ${RENAME}):focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px; }
    ${OTHER} { padding: 0 6px; border: 1px solid var(--jp-border-color1, #bdbdbd); font-size: 80%; opacity: 0;
      font-family: var(--jp-ui-font-family, sans-serif); }
    :is(summary, li):hover > ${OTHER}, li > div:hover > ${OTHER}, ${OTHER}:focus-visible { opacity: 1; }
${Object.entries(LANGUAGE_NAMES).map(([kind, name]) => `    ${KEY}.pd-for-${kind}::before { content: "Copy for ${name}"; }`).join('\n')}
    ${KEY}:hover { background: var(--jp-layout-color2, #eee); }
    ${KEY}:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px; }
    ${KEY}.pd-copied::after, ${KEY}.pd-not-copied::after {
      position: absolute; left: calc(100% + 4px); top: 0; z-index: 10; padding: 0 6px; border-radius: 3px;
      white-space: nowrap; font-family: var(--jp-ui-font-family, sans-serif); font-size: 11px;
      color: var(--jp-ui-inverse-font-color1, #fff); background: var(--jp-inverse-layout-color2, #424242); }
    .jp-OutputArea:has(.widget-vbox) .pd-picture { display: none; }
    ${NEW_CELL}.pd-written .pd-if-written { display: block !important; }
    ${NEW_CELL}.pd-written .pd-if-not-written { display: none; }
    ${KEY}.pd-block.pd-copied::after, ${KEY}.pd-block.pd-not-copied::after { left: auto; right: 4px; top: 4px; }
    ${KEY}.pd-copied, ${KEY}.pd-not-copied { opacity: 1 !important; }
    ${KEY}.pd-copied::after { content: "copied"; }
    ${KEY}.pd-not-copied::after { content: "could not copy"; }`;

  /** The text that a click on *key* copies, or null. */
  function textOf(key) {
    const title = key.getAttribute('title') || '';
    return title.startsWith('Copy ') ? title.slice('Copy '.length) : null;
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return copyWithSelection(text); // without permission, or in a page from another machine without https
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

  /** Create a region that screen readers read aloud when its text changes; returns a function that sets the text. */
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

  /**
   * Restore role and tabindex of the keys and marks in *root*: JupyterLab's sanitizer removes both from saved outputs. A screen reader
   * does not find a button in a `summary`, which is a button itself: there, C copies the first key, and Shift+C the second.
   */
  function restoreButtons(root) {
    for (const key of root.querySelectorAll(`${KEY}[title^="Copy "], ${STALE}, ${ADD}, ${RENAME}`)) {
      const summary = key.closest('summary');
      if (summary) {
        key.removeAttribute('role');
        key.removeAttribute('tabindex');
        summary.setAttribute('aria-keyshortcuts', 'c');
      } else {
        key.setAttribute('role', 'button');
        key.setAttribute('tabindex', '0');
      }
      if (!key.textContent) { // the style has the text
        key.setAttribute('aria-label', key.title);
      }
    }
  }

  /** Make each form in *root* a group with a name: ipywidgets has no roles. */
  function nameForms(root) {
    for (const line of root.querySelectorAll(FORM_LINE)) {
      const form = line.closest('.pd-form');
      form?.setAttribute('role', 'group');
      form?.setAttribute('aria-label', line.getAttribute('data-form'));
    }
  }

  /** Call *onActivate* for a click, Enter or Space anywhere, before JupyterLab's shortcuts, which listen on the document. */
  function onPress(onActivate) {
    window.addEventListener('click', onActivate, true);
    window.addEventListener('keydown', event => {
      const plain = !(event.ctrlKey || event.metaKey || event.altKey || event.shiftKey);
      if (plain && (event.key === 'Enter' || event.key === ' ')) {
        onActivate(event);
      }
    }, true);
  }

  function watchKeys() {
    const sheet = new CSSStyleSheet(); // a style element would need style-src 'unsafe-inline'
    sheet.replaceSync(CSS);
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    const announce = makeAnnouncer();

    const copyKey = async (event, key) => {
      const text = key && textOf(key);
      if (!key || text === null) {
        return;
      }
      event.preventDefault();
      event.stopImmediatePropagation(); // JupyterLab would start editing at Enter, and scroll at Space
      const done = await copy(text);
      const feedback = done ? 'pd-copied' : 'pd-not-copied';
      key.classList.add(feedback);
      setTimeout(() => key.classList.remove(feedback), FEEDBACK_MS);
      announce(done ? `Copied ${text}` : `Could not copy ${text}`);
    };
    onPress(event => copyKey(event, event.target instanceof Element ? event.target.closest(KEY) : null));
    window.addEventListener('keydown', event => {
      const isCopy = event.key.toLowerCase() === 'c' && !(event.ctrlKey || event.metaKey || event.altKey);
      if (isCopy && event.target instanceof Element && event.target.matches('summary')) {
        copyKey(event, event.target.querySelectorAll(KEY)[event.shiftKey ? 1 : 0]);
      }
    }, true);

    restoreButtons(document);
    new MutationObserver(records => {
      for (const record of records) {
        for (const node of record.addedNodes) {
          if (node instanceof Element && node.parentElement) {
            restoreButtons(node.matches(`${KEY}, ${STALE}, ${ADD}, ${RENAME}`) ? node.parentElement : node);
            nameForms(node.matches(FORM_LINE) ? node.parentElement : node);
          }
        }
      }
    }).observe(document.body, { childList: true, subtree: true });
  }

  // ---- Running timelines ------------------------------------------------------------------------------------------

  const TIMELINE = '.pd-timeline';
  const STOP = 'code.pd-stop';
  const STOP_CSS = `
    ${STOP}.pd-stop { cursor: pointer; padding: 1px 10px; margin-right: 8px; border-radius: 3px; color: #ffffff !important; background: #cf222e !important;
      font-family: var(--jp-ui-font-family, sans-serif); font-size: 85%; }
    ${STOP}::before { content: "Stop"; }
    ${STOP}.pd-stopping { opacity: 0.6; }
    ${STOP}.pd-stopping::before { content: "Stopping"; }
    ${STOP}:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px; }`;

  /** The parts of a timeline that a reader opens and closes, by a name that stays the same when it is drawn again. */
  function partsOf(timeline) {
    const parts = new Map();
    for (const part of timeline.querySelectorAll('details')) {
      const step = part.closest('.pd-steps > li');
      const index = step ? [...step.parentElement.children].indexOf(step) : -1;
      const inside = [...(step || timeline).querySelectorAll('details')].indexOf(part);
      parts.set(`${index}/${inside}`, part);
    }
    return parts;
  }

  /**
   * A click on the Stop button of a running timeline interrupts the kernel of its notebook. A running timeline is drawn again each
   * second: what the reader has opened stays open, and the button keeps the focus.
   */
  function watchTimelines(tracker) {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STOP_CSS);
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    let stoppingIn = null; // the output area whose run is being stopped

    const prepare = root => {
      for (const button of root.querySelectorAll(STOP)) {
        button.setAttribute('role', 'button');
        button.setAttribute('tabindex', '0');
        button.setAttribute('aria-label', 'Stop the run');
        button.classList.toggle('pd-stopping', stoppingIn !== null && stoppingIn.contains(button));
      }
    };

    const stop = event => {
      const button = event.target instanceof Element ? event.target.closest(STOP) : null;
      const panel = button && tracker.find(candidate => candidate.node.contains(button));
      if (!panel) {
        return;
      }
      event.preventDefault();
      event.stopImmediatePropagation();
      const prompt = button.closest('.jp-CodeCell')?.querySelector('.jp-InputPrompt')?.textContent || '';
      if (!prompt.includes('*')) {
        // the timeline was saved while it ran: another cell may run now
        notify('This page shows no run of this cell, so nothing was stopped. To stop the running cell: Kernel > Interrupt Kernel.');
        return;
      }
      stoppingIn = button.closest('.jp-OutputArea');
      button.classList.add('pd-stopping');
      panel.sessionContext.session?.kernel?.interrupt();
    };
    window.addEventListener('click', stop, true);
    window.addEventListener('keydown', event => {
      const plain = !(event.ctrlKey || event.metaKey || event.altKey || event.shiftKey);
      if (plain && (event.key === 'Enter' || event.key === ' ')) {
        stop(event);
      }
    }, true);

    let hadFocus = null; // the output area whose Stop button has the focus
    window.addEventListener('focusin', event => {
      hadFocus = event.target instanceof Element && event.target.matches(STOP) ? event.target.closest('.jp-OutputArea') : null;
    });

    const find = (nodes, selector) => {
      for (const node of nodes) {
        const found = node instanceof Element ? (node.matches(selector) ? node : node.querySelector(selector)) : null;
        if (found) {
          return found;
        }
      }
      return null;
    };
    prepare(document);
    new MutationObserver(records => {
      const removed = records.map(record => find(record.removedNodes, TIMELINE)).find(Boolean);
      const added = records.map(record => find(record.addedNodes, TIMELINE)).filter(Boolean).pop();
      if (!added || !added.isConnected) {
        return;
      }
      prepare(added);
      const area = added.closest('.jp-OutputArea');
      if (stoppingIn === area && !added.querySelector(STOP)) {
        stoppingIn = null;
      }
      if (removed && removed !== added) {
        const before = partsOf(removed);
        for (const [name, part] of partsOf(added)) {
          if (before.has(name)) {
            part.open = before.get(name).open;
          }
        }
      }
      if (area && area === hadFocus && document.activeElement === document.body) {
        added.querySelector(STOP)?.focus();
      }
    }).observe(document.body, { childList: true, subtree: true });
  }

  // ---- Presses on what is drawn again -----------------------------------------------------------------------------

  /**
   * Click the button under the pointer if the pressed one was drawn again before the release: a running timeline is drawn each second,
   * and a browser sends no click for an element that has left the page.
   */
  function watchPresses() {
    const buttonOf = event => (event.target instanceof Element ? event.target.closest(`${KEY}, ${STALE}, ${STOP}`) : null);
    let pressed = null;
    window.addEventListener('pointerdown', event => {
      pressed = event.button === 0 ? buttonOf(event) : null;
    }, true);
    window.addEventListener('pointerup', event => {
      const released = buttonOf(event);
      if (pressed && !pressed.isConnected && released?.title === pressed.title) {
        released.click();
      }
      pressed = null;
    }, true);
  }

  // ---- Pages that a button opens ----------------------------------------------------------------------------------

  const OPENS = '.pd-link';
  const PAGE = 'a.pd-open';
  const CLICK_MS = 4500; // a browser allows a page to open a window for some seconds after a click
  const LOOPBACK_HOSTS = ['localhost', '127.0.0.1', '[::1]'];

  /**
   * After a click on a button `.pd-link`, the kernel creates the address of a page and outputs it as a link `a.pd-open`. The link is
   * opened automatically, unless it arrives too late, or the page is on a loopback address and JupyterLab is on another machine.
   * Then the link stays in the output.
   */
  function watchPages() {
    const isLocal = LOOPBACK_HOSTS.includes(window.location.hostname);
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(isLocal ? '.pd-elsewhere { display: none; }' : '');
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
        if (link && (isLocal || !LOOPBACK_HOSTS.includes(link.hostname))) {
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
      opened.opener = null; // the opened page must not navigate this page
      opened.location.replace(address);
    }
  }

  // ---- Registration of the extension ------------------------------------------------------------------------------

  let tokens, notebook, services, apputils;

  const makePlugin = () => ({
    id: 'pdkernel:plugin',
    description: 'Highlights step cells in their language, sends them to the kernel, copies paths, and opens pages.',
    autoStart: true,
    requires: tokens,
    activate: (_app, tracker, languages) => {
      watchKeys();
      watchTimelines(tracker);
      watchPresses();
      watchPages();
      watchSending();
      watchStaleMarks();
      watchBlocks();
      tracker.forEach(panel => watchNotebook(panel, languages));
      tracker.widgetAdded.connect((_sender, panel) => watchNotebook(panel, languages));
    }
  });

  const lab = /** @type {any} */ (window);
  lab._JUPYTERLAB = lab._JUPYTERLAB || {};
  lab._JUPYTERLAB.pdkernel = {
    init: async scope => {
      const shared = async name => (await Object.values(scope[name])[0].get())();
      const names = ['notebook', 'services', 'apputils', 'codemirror'].map(name => `@jupyterlab/${name}`);
      let codemirror;
      [notebook, services, apputils, codemirror] = await Promise.all(names.map(shared));
      tokens = [notebook.INotebookTracker, codemirror.IEditorLanguageRegistry];
    },
    get: async () => () => ({ __esModule: true, default: makePlugin() })
  };
})();
