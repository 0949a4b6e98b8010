// The keys that work everywhere, and the list of all of them.
import { useEffect, useRef } from "preact/hooks";

const KEYS: readonly (readonly [string, string])[] = [
  ["← → ↑ ↓", "to the parent, the first child, the branch above or below"],
  ["Enter", "open the selected branch"],
  ["Esc", "close the panel, or this"],
  ["+  −  0", "zoom in, out, to the whole tree"],
  ["Home", "to the problem"],
  ["/", "search"],
  ["n  N", "next and previous match"],
  ["[  ]", "previous and next problem"],
  ["l", "tree or plain list"],
  ["← → in a text", "from token to token"],
  ["?", "these keys"],
];

export function Keys({ onClose }: { onClose(): void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} class="keys" aria-labelledby="keys-title" onClose={onClose} data-testid="keys">
      <form method="dialog">
        <h2 id="keys-title">Keys</h2>
        <dl>
          {KEYS.map(([key, what]) => (
            <div key={key}>
              <dt><kbd>{key}</kbd></dt>
              <dd>{what}</dd>
            </div>
          ))}
        </dl>
        <button type="submit">close</button>
      </form>
    </dialog>
  );
}

/** Keys that work wherever the focus is, but for fields that one types in. */
export function useShortcuts(of: Record<string, () => void>): void {
  const now = useRef(of);
  now.current = of;
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const { target } = event;
      const typing = target instanceof HTMLInputElement || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      if (typing && event.key === "Escape") target.blur();
      else if (!typing && now.current[event.key]) {
        event.preventDefault();
        now.current[event.key]?.();
      }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}
