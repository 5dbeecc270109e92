import { page } from "./pages.mjs";

export default defineComponent({ run: () => page(1) });
