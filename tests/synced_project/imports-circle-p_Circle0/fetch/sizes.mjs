import { page } from "./pages.mjs";

export const size = page ? 10 : 20;
