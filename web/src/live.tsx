// How the connection to a run that goes on stands.
import type { StreamState } from "./sse";

export function Live({ stream }: { stream: StreamState }) {
  const words =
    stream.now === "live" ? "live"
    : stream.now === "done" ? "ended"
    : stream.now === "connecting" ? "connecting"
    : stream.now === "refused" ? `refused (${stream.status})`
    : `${stream.why}; again in ${stream.seconds} s`;
  return <span class={`live is-${stream.now}`} role="status" data-testid="live">{words}</span>;
}
