"""
Style sheet and script that each page of Connect Link contains.

The script reads `data-message`, `data-origins` and `data-window` of the body. A page in a frame posts its result to the product's
page at an allowed origin, as the platform's page does. Sign-in pages of apps do not open in frames, so the script opens a
window for them. The last page in that window posts the result to the frame.
"""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; display: grid; place-items: start center; padding: 8vh 16px; }
main { width: 100%; max-width: 26rem; overflow-wrap: break-word; }
body.framed { background: #0008; min-height: 84vh; }
body.framed main { background: Canvas; color: CanvasText; padding: 24px; border-radius: 10px; box-sizing: border-box; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; }
h1 img { display: block; margin-bottom: .75rem; }
label { display: block; margin: 1rem 0 .25rem; font-weight: 600; }
input, textarea { box-sizing: border-box; width: 100%; font: inherit; padding: .5rem; }
textarea { min-height: 6rem; font-family: monospace; }
button { margin-top: 1.25rem; width: 100%; font: inherit; font-weight: 600; padding: .6rem; cursor: pointer;
  background: #0969da; color: #fff; border: 1px solid #0969da; border-radius: 6px; }
button.quiet { margin-top: .75rem; background: transparent; color: inherit; border-color: #8888; font-weight: 400; }
.note { opacity: .75; font-size: .9rem; }
.bad { border-left: 4px solid #cf222e; padding-left: .75rem; }
.good { border-left: 4px solid #1a7f37; padding-left: .75rem; }
"""
SCRIPT = """
const data = document.body.dataset;
const message = data.message ? JSON.parse(data.message) : null;
const framed = window.parent !== window;
const post = (result) => {
  for (const origin of JSON.parse(data.origins || '[]')) window.parent.postMessage(result, origin);
};
const report = (result) => {
  post(result);
  if (result.type === 'success') post({ type: 'close' });
};
const showStatus = (text) => { document.querySelector('#status').textContent = text; };

if (framed) {
  document.body.classList.add('framed');
  if (message) report(message);
} else if (message && data.window && window.opener) {
  window.opener.postMessage(message, window.location.origin);
  window.close();
}
for (const button of document.querySelectorAll('button[data-close]')) {
  button.hidden = !framed;
  button.addEventListener('click', () => post({ type: 'close' }));
}
let opened = null;
for (const form of framed ? document.forms : []) {
  if (form.elements.framed) form.elements.framed.value = 'true';
  form.addEventListener('submit', (event) => {
    form.target = '';
    if (!form.dataset.window || event.submitter?.name === 'cancel') return;
    opened = window.open('', 'pdkernel-sign-in', 'popup,width=560,height=760');
    if (!opened) {
      event.preventDefault();
      showStatus('The browser did not open a window. Allow pop-ups for this page, and try again.');
      return;
    }
    form.target = 'pdkernel-sign-in';
    showStatus('Continue in the window that has opened.');
  });
}
window.addEventListener('message', (event) => {
  if (!opened || event.source !== opened || event.origin !== window.location.origin) return;
  showStatus(event.data.type === 'success' ? 'The account is connected.' : event.data.error || '');
  report(event.data);
});
"""
