import { targets } from "../../score-leads-p_S1bl1Ng/score/score_targets.mjs";

export default defineComponent({ run: () => targets });
